"""The service's real processes as the hostile cases meet them: a small limit on uploads, few threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from broker.connection import connect
from tests.e2e.hostile_cases import GOOD, MAX_UPLOAD_MB, Answer, Case, talk
from tests.support.keys_left import keys_of_jobs
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually


class Hostile(Stack):
    """A stack with a small limit on uploads and few threads."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        super().__init__(folder, redis.url)
        self.redis = redis
        self.environment |= {"MAX_UPLOAD_MB": str(MAX_UPLOAD_MB), "WEB_THREADS": "32", "RESULT_TTL_S": "1"}

    def begin(self) -> None:
        """Start web and a model server."""
        web = self.start_web()
        self.start_model_server()
        self.process = psutil.Process(web.pid).children()[0]

    def warm_up(self) -> None:
        """Have its connections to Redis open, and no result left, so that what is there can be counted."""
        with ThreadPoolExecutor(16) as pool:
            assert {answer.status for answer in pool.map(self.talk, [GOOD] * 64)} == {200}
        eventually(lambda: not any(":result:" in key for key in self.keys()))

    def talk(self, case: Case) -> Answer:
        """Have a case answered."""
        return talk(("127.0.0.1", self.port), case)

    def keys(self) -> set[str]:
        """Those in Redis."""
        with connect(self.redis.url, timeout_s=5) as client:
            return keys_of_jobs(client)
