"""The bundled text and the measure of what it covers; nothing in `lightspeech` imports this."""
