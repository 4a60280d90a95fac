"""The entry point of a web process: `gunicorn -c web/gunicorn.conf.py web.wsgi:app`.

Owns nothing but the start: settings, logging, the threads of the subscription and of webhooks (one of each in
each worker process).
"""

from functools import partial

from settings import Settings
from web import start
from web.app import create_app, refusal_renderer
from web.keys.guard import Guard
from web.keys.http_guard import LoopGuard
from web.routes.predict import turned_away
from web.server.connection import Connection
from web.server.proxies import TrustedProxies
from web.server.request_reader import Arrival
from web.server.worker import PatientWorker

_settings = Settings.from_env()
start.prepare(_settings, "batchwire-web")
app = create_app(_settings)
if _settings.trusted_proxies:
    Arrival.proxies = TrustedProxies(_settings.trusted_proxies)
Connection.render_refusal = staticmethod(refusal_renderer(_settings))
_jobs = app.extensions["jobs"]
PatientWorker.turn_away = staticmethod(partial(turned_away, _jobs))
if _jobs.api_keys is not None:
    _jobs.api_keys.known.start()
    _guard = LoopGuard(app, Guard(_jobs.api_keys.known))
    Connection.render_refusal = staticmethod(refusal_renderer(_settings, key_name_of=_guard.key_name))
    PatientWorker.judge_head = staticmethod(_guard.refusal)
    PatientWorker.turn_away = staticmethod(partial(turned_away, _jobs, guard=_guard))
_jobs.replies.start()
app.extensions["history"].start()
if "deliverer" in app.extensions:
    app.extensions["deliverer"].start()
