"""The entry point of a web process: `gunicorn -c web/gunicorn.conf.py web.wsgi:app`.

Owns nothing but the start: settings, logging, the subscription's thread (one in each worker process).
"""

import logging

from settings import Settings
from web import memory
from web.app import create_app
from web.connection import Connection

memory.give_back_large_blocks()
_settings = Settings.from_env()
logging.basicConfig(
    level=_settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
)
app = create_app(_settings)
Connection.origins = _settings.cors_origins
app.extensions["frontend"].replies.start()
