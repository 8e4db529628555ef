"""Smriti: a reflection portal, and the proof of smriti_scale. `examples.smriti.app:create_app` makes the service."""
