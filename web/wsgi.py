"""The entry point of a web process: `gunicorn -c web/gunicorn.conf.py web.wsgi:app`.

Owns nothing but the start: settings, logging, the threads of the subscription and of webhooks (one of each in
each worker process).
"""

import logging
from functools import partial

from settings import Settings
from web.app import create_app, refusal_renderer
from web.middleware import request_ids
from web.routes.predict import turned_away
from web.server import malloc
from web.server.connection import Connection
from web.server.worker import PatientWorker

malloc.give_back_large_blocks()
_settings = Settings.from_env()
logging.basicConfig(level=_settings.log_level.upper(), format=request_ids.LOG_FORMAT)
# At debug Pillow tells what is in a photo: who took it, where, and with what.
logging.getLogger("PIL").setLevel(max(logging.INFO, logging.getLogger().level))
for _handler in logging.getLogger().handlers:
    _handler.addFilter(request_ids.Stamp())
app = create_app(_settings)
Connection.render_refusal = staticmethod(refusal_renderer(_settings))
PatientWorker.turn_away = staticmethod(partial(turned_away, app.extensions["jobs"]))
app.extensions["jobs"].replies.start()
if "deliverer" in app.extensions:
    app.extensions["deliverer"].start()
