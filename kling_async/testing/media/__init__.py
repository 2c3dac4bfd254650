"""Pictures and videos for the emulator."""
