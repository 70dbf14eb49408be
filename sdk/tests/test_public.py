"""What users may import stays what `__all__` says."""

import inspect
import pkgutil

import mixkd_client


def test_all_lists_exactly_the_public_names() -> None:
    public = {
        name
        for name, value in vars(mixkd_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(public) == mixkd_client.__all__


def test_every_module_but_the_stated_ones_is_private() -> None:
    modules = {module.name for module in pkgutil.iter_modules(mixkd_client.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {"progress"}


def test_every_error_descends_from_one() -> None:
    errors = [value for value in vars(mixkd_client).values() if inspect.isclass(value)]
    errors = [error for error in errors if issubclass(error, Exception)]
    assert len(errors) > 10
    assert all(issubclass(error, mixkd_client.MixkdError) for error in errors)
