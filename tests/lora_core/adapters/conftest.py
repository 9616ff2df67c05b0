"""Makes PEFT importable on a CPU-only torch, before the test modules that import it."""

from lora_pack.demo.host.cpu_packages import prepare

prepare()
