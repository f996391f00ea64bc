"""Reads a pickle as data: what it names is looked at, never imported, made or called.

A pickle is a program for a small stack machine; Python's own reader runs it, and whatever functions
it asks for. This one tokenises it with the standard library's `pickletools` and builds nothing but
numbers, strings, lists, dictionaries, tensors and `PickledObject`s, which stand for instances of
classes that need not exist here. A name outside the caller's list is refused (`Refused`) before
anything is made of it.

It reads more than `torch.load(weights_only=True)` does (whole modules in PyTorch's legacy format,
which that refuses), holds no more memory than the file is long, and parses no bytes in C.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, BinaryIO

_ORDERED_DICTIONARY = "collections.OrderedDict"
_SETS = ("__builtin__.set", "builtins.set", "__builtin__.frozenset", "builtins.frozenset")

_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_LITERALS = frozenset((*_NUMBERS, *_TEXTS, *_BYTES))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STORES = ("PUT", "BINPUT", "LONG_BINPUT")
_FETCHES = ("GET", "BINGET", "LONG_BINGET")


class Refused(Exception):  # noqa: N818 - not an error of the file: it asks for what we do not do
    """A pickle asks for something that is not on the list; `name` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class PickledObject:
    """An instance of some class, as a pickle describes it: its class's name and its attributes."""

    def __init__(self, name: str) -> None:
        self.name = name
        """module and class, such as `glow.WaveGlow`"""
        self.state: dict[str, Any] = {}
        """attribute -> value"""


class Reference:
    """A class or function that a pickle names."""

    def __init__(self, name: str) -> None:
        self.name = name


_MARK = object()  # where a run of items on the stack begins


def read_pickle(
    file: bytes | BinaryIO,
    allowed: Container[str],
    persistent: Callable[[Any], Any],
    calls: Mapping[str, Callable[..., Any]],
) -> Any:
    """Reads one pickle, and leaves the file at its end.

    Args:
        file: the pickle's bytes, or a file that stands at its start.
        allowed: names (`module.name`) that may occur; calls of those without an entry in `calls`
            and instances of them become `PickledObject`s.
        persistent: what stands for an object that the pickle refers to by an identity.
        calls: name -> what to make of a call of it; its arguments are the pickle's.

    Raises:
        Refused: the pickle asks for a name that is not allowed, or for an unusual operation.
        ValueError, TypeError, LookupError and their like: it makes no sense.
    """
    stream = io.BytesIO(file) if isinstance(file, bytes) else file
    with warnings.catch_warnings():
        # pickletools on odd backslashes in strings, where a file is damaged; nobody can mend that.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", SyntaxWarning)
        return _Machine(allowed, persistent, calls).run(stream)


class _Machine:
    def __init__(
        self,
        allowed: Container[str],
        persistent: Callable[[Any], Any],
        calls: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.allowed = allowed
        self.persistent = persistent
        self.calls = calls
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}
        self.steps = 0
        self.copied = 0

    def run(self, file: BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self.steps += 1
            name = opcode.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _STORES:
                self.memo[argument] = self._top()
            elif name in _FETCHES:
                self.stack.append(self.memo[argument])
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _TUPLES:
                self.stack.append(tuple(self._pop(_TUPLES[name])))
            elif name == "STOP":
                (result,) = self.stack
                return result
            else:
                self._step(name, argument)
        raise ValueError("it has no end")

    def _step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                push(_MARK)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self._top()
            case "EMPTY_LIST" | "EMPTY_SET":
                push([])
            case "EMPTY_DICT":
                push({})
            case "LIST" | "FROZENSET":
                push(self._pop_to_mark())
            case "TUPLE":
                push(tuple(self._pop_to_mark()))
            case "DICT":
                items = self._pop_to_mark()
                push({})
                self._set_items(items)
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS" | "ADDITEMS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                self._set_items(self._pop(2))
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "GLOBAL":
                push(self._refer(*argument.rsplit(" ", 1)))
            case "STACK_GLOBAL":
                push(self._refer(*self._pop(2)))
            case "REDUCE":
                push(self._call(*self._pop(2)))
            case "NEWOBJ":
                push(self._instance(self._pop(2)[0]))
            case "BUILD":
                self._build(*self._pop(1))
            case "BINPERSID":
                push(self.persistent(*self._pop(1)))
            case "POP":
                self._pop(1)
            case _:
                raise Refused(f"the pickle operation {name}")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("its stack is empty")
        return self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if count == 0:
            return []
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise ValueError("its stack is empty")
        del self.stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while True:
            item = self.stack.pop()
            if item is _MARK:
                items.reverse()
                return items
            items.append(item)

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise TypeError("items of what is no list")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nothing else is a key in a checkpoint, and hashing a deep tuple can end a process.
            if not isinstance(key, str | int | float | bytes | None):
                raise TypeError("an odd key in a dictionary")
            if isinstance(key, int) and key.bit_length() > 64:
                raise ValueError("a key of many digits in a dictionary")
            target[key] = value

    def _refer(self, module: Any, name: Any) -> Reference:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        full_name = f"{module}.{name}"
        if full_name not in self.allowed:
            raise Refused(full_name)
        return Reference(full_name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Reference) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        if function.name in self.calls:
            return self.calls[function.name](*arguments)
        if function.name == _ORDERED_DICTIONARY:
            return self._ordered_dictionary(*arguments)
        if function.name in _SETS:
            (items,) = arguments or ([],)
            if not isinstance(items, list):
                raise TypeError("a set of what is no list")
            return items  # itself: a pickle that asked for copies of copies could fill the memory
        return PickledObject(function.name)

    def _ordered_dictionary(self, pairs: Any = ()) -> dict[Any, Any]:
        if not isinstance(pairs, list | tuple):
            raise TypeError("an ordered dictionary of what is no list")
        # Each pair took a step to be read; more of them are copies of the same list, over and over.
        self.copied += len(pairs)
        if self.copied > self.steps:
            raise ValueError("more ordered dictionaries than it has items for")
        self.stack.append({})
        self._set_items([item for key, value in pairs for item in (key, value)])
        dictionary: dict[Any, Any] = self.stack.pop()
        return dictionary

    def _instance(self, of: Any) -> PickledObject:
        if not isinstance(of, Reference):
            raise TypeError("an instance of what is no class")
        return PickledObject(of.name)

    def _build(self, state: Any) -> None:
        target = self._top()
        if isinstance(target, dict):
            return  # the attributes of a dictionary: a state dict's version numbers
        if not isinstance(target, PickledObject):
            raise TypeError("attributes of what is no object")
        if isinstance(state, dict):
            if target.state:
                raise ValueError("attributes that are given twice")
            target.state = state  # not a copy, for the same reason as above
        # else: of a numpy type, say, in a form of its own that nobody reads here
