"""Pictures of what LoRAs do, as IMAGE sockets carry them; drawn with Pillow, which every host brings."""
