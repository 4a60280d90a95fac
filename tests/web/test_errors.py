"""The table of statuses: every error class has its row."""

import broker.errors
import pictures.decode
import web.errors
import web.jobs
from broker.errors import ServiceError


def _all(base: type[ServiceError]) -> set[type[ServiceError]]:
    return {base}.union(*(_all(each) for each in base.__subclasses__()))


def test_every_error_class_has_a_status() -> None:
    classes = _all(ServiceError)
    assert {pictures.decode.InvalidImage, web.jobs.ClientGone, broker.errors.LeaseLost} <= classes
    assert {each.code for each in classes} <= set(web.errors.STATUS)


def test_every_status_has_an_error_class_or_is_flask_s_own() -> None:
    codes = {each.code for each in _all(ServiceError)}
    assert set(web.errors.STATUS) - codes <= set(web.errors._HTTP_CODES.values())


def test_the_tree_in_the_docstring_names_every_error_of_the_broker() -> None:
    drawn = broker.errors.__doc__ or ""
    assert all(each.__name__ in drawn for each in _all(ServiceError) if each.__module__ == "broker.errors")
