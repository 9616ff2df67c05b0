"""Run by `devtools.locales` inside .venv: writes locales/en from the schemas of the nodes, on a ComfyUI."""

from benchmarks._host import start_host

from .locale_texts import ENGLISH, TEXTS, texts_of, write


def main() -> None:
    start_host()
    from lora_pack.nodes import NODES  # pyright: ignore[reportMissingImports]  importable since start_host

    print(write(ENGLISH, TEXTS, texts_of(node.GET_SCHEMA() for node in NODES)))


if __name__ == "__main__":
    main()
