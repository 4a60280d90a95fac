"""The contract between the tiers: keys, messages, codec, Lua scripts, producer and consumer.

The only package that imports `redis`. It imports neither web nor model_server, reads no settings
and no environment: what it needs is handed to it. Bytes of pictures pass through it unjudged.
"""
