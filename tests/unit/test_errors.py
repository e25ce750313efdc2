from __future__ import annotations

from igniter_prof import errors


def _tree(root: type[errors.IgprofError]) -> list[type[errors.IgprofError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _tree(child)
    return found


def test_exit_statuses_of_the_tree_are_unique() -> None:
    direct = [errors.IgprofError, *errors.IgprofError.__subclasses__()]
    statuses = [kind.exit_status for kind in direct]
    assert len(set(statuses)) == len(statuses)
    assert set(statuses) == {1, 2, 3, 4, 5, 6, 7}


def test_a_message_says_what_where_and_what_next() -> None:
    error = errors.BadInput(
        "unknown key 'shaes'", where="sweep.yaml", hint="did you mean 'shares'?"
    )
    assert str(error) == "sweep.yaml: unknown key 'shaes'\n  did you mean 'shares'?"


def test_did_you_mean() -> None:
    assert errors.did_you_mean("resnet5", ["resnet50", "vgg19"]) == "did you mean 'resnet50'?"
    assert errors.did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert errors.did_you_mean("zzz", []) is None
