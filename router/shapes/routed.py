"""`@routed("task")`: a function that builds a prompt becomes one that gives its answer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from router.core.answer import Answer
from router.errors import InvalidCall
from router.options import Options, Prompt
from router.shapes.routes import Routes

P = ParamSpec("P")
_Built = Prompt | Mapping[str, Any]
_Self = TypeVar("_Self")


class Routed(Generic[P]):
    """A function that builds a prompt, called for the answer to it."""

    __name__: str

    def __init__(
        self,
        function: Callable[P, Any],
        router: Callable[[], Routes],
        task: str,
        options: Mapping[str, Any],
        own: Mapping[str, Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._router = router
        self._task = task
        self._options = options
        self._own = own or {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The answer to the prompt that the function builds."""
        prompt, options = self._call(self._function(*args, **kwargs))
        return self._router().route(self._task, prompt, **options)

    def with_options(self: _Self, **options: Unpack[Options]) -> _Self:
        """The same function with further options, which win over those it has; for one call or for many."""
        made: Any = self
        return cast(_Self, made._again(made._function, {**made._own, **options}))

    def __get__(self: _Self, instance: Any, owner: Any = None) -> _Self:
        # In a class it is a method.
        if instance is None:
            return self
        made: Any = self
        return cast(_Self, made._again(made._function.__get__(instance, owner), made._own))

    def _again(self, function: Callable[..., Any], own: Mapping[str, Any]) -> Any:
        return type(self)(function, self._router, self._task, self._options, own)

    def _call(self, built: Any) -> tuple[Prompt, Options]:
        """What the function built: a prompt, or a mapping of the prompt and options of this call."""
        if not isinstance(built, Mapping):
            return built, cast(Options, {**self._options, **self._own})
        if "prompt" not in built:
            raise InvalidCall(
                f"prompt: {self._function.__qualname__} gave a mapping without 'prompt'; return text, messages, or "
                "{'prompt': ..., and options of route}",
                argument="prompt",
            )
        rest = {name: value for name, value in built.items() if name != "prompt"}
        return built["prompt"], cast(Options, {**self._options, **rest, **self._own})


class AsyncRouted(Routed[P]):
    """The same for a function that is `async`."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Answer:  # type: ignore[override]
        """The answer to the prompt that the function builds."""
        prompt, options = self._call(await self._function(*args, **kwargs))
        return await self._router().aroute(self._task, prompt, **options)


class Decorator:
    """Makes functions of one task."""

    def __init__(self, router: Callable[[], Routes], task: str, options: Options) -> None:
        self._made = (router, task, dict(options))

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, _Built]]) -> AsyncRouted[P]: ...

    @overload
    def __call__(self, function: Callable[P, _Built]) -> Routed[P]: ...

    def __call__(self, function: Callable[P, Any]) -> Any:
        """A function that gives the answer to the prompt that this one builds."""
        if not callable(function):
            raise InvalidCall(
                f"routed: is for a function that builds a prompt, not for a {type(function).__name__}",
                argument="function",
            )
        kind = AsyncRouted if inspect.iscoroutinefunction(function) else Routed
        return kind(function, *self._made)
