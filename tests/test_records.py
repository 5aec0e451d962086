"""Records and enums of our own behave as those of the standard library, which the type checker takes them for."""

import pickle
import typing

import pytest

from pyinit import model, records, scopes


class Small(records.NamedTuple):
    """Two fields."""

    name: str
    count: int = 3

    def doubled(self):
        return self.count * 2


class Original(typing.NamedTuple):
    name: str
    count: int = 3


class Colour(records.Enum):
    RED = "red"
    BLUE = "blue"

    @property
    def loud(self):
        return self.value.upper()


@pytest.mark.parametrize("kind", [Small, Original])
def test_a_record_is_a_named_tuple(kind):
    one = kind("a")
    assert (one, one.name, one.count) == (("a", 3), "a", 3)
    assert kind(count=4, name="b") == kind("b", 4) == kind._make(["b", 4]) == one._replace(name="b", count=4)
    assert (kind._fields, kind._field_defaults, kind.__match_args__) == (("name", "count"), {"count": 3}, ("name", "count"))
    assert one._asdict() == {"name": "a", "count": 3}
    assert repr(one) == f"{kind.__name__}(name='a', count=3)"
    assert pickle.loads(pickle.dumps(one)) == one
    assert type(one._replace(count=1)) is kind
    match one:
        case kind(name, 3):
            assert name == "a"
        case _:
            pytest.fail("no match")
    for wrong in (kind, lambda: kind("a", 1, 2), lambda: kind("a", name="b"), lambda: kind("a", size=1), lambda: kind._make([1])):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="size"):
        one._replace(size=1)
    with pytest.raises(AttributeError):
        one.name = "b"


def test_a_records_methods_and_words():
    assert (Small("a").doubled(), Small.__doc__, Small.__mro__[1:]) == (6, "Two fields.", (tuple, object))
    assert str(model.Origin("a.toml", 3)) == "a.toml:3"


def test_a_record_of_many_fields():
    spec = model.ServiceSpec("app", ("/bin/true",), restart="never")
    assert (spec.name, spec.command, spec.kind, spec.restart) == ("app", ("/bin/true",), "service", "never")
    assert spec._replace(kind="task").kind == "task"
    assert model.ServiceSpec(*spec) == spec == pickle.loads(pickle.dumps(spec))
    with pytest.raises(TypeError, match="ServiceSpec needs command, too"):
        model.ServiceSpec("app")
    with pytest.raises(TypeError, match="1 values and name, command are not what it takes: name, command, kind"):
        model.ServiceSpec("app", name="app", command=())
    with pytest.raises(TypeError):
        model.ServiceSpec(*spec, 1)


def test_an_enum():
    assert list(Colour) == [Colour.RED, Colour.BLUE]
    assert (Colour("red"), Colour["BLUE"], len(Colour), Colour.RED.loud, Colour.RED.name) == (Colour.RED, Colour.BLUE, 2, "RED", "RED")
    assert (repr(Colour.RED), str(Colour.RED)) == ("<Colour.RED: 'red'>", "Colour.RED")
    assert pickle.loads(pickle.dumps(Colour.RED)) is Colour.RED
    assert Colour.RED in Colour
    assert "red" not in Colour
    with pytest.raises(ValueError, match="'green' is no Colour"):
        Colour("green")
    with pytest.raises(AttributeError):
        Colour.RED = 1


def test_suppress_ends_a_block_at_these_errors_only():
    with scopes.suppress(KeyError, OSError):
        raise FileNotFoundError
    with pytest.raises(ValueError, match="no"), scopes.suppress(KeyError):
        raise ValueError("no")
