"""What every request shares: the transaction with token and dry run, looking up what the caller owns, paging."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import fnmatch
import hashlib
import random
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests.types import Page
from yuntai.control.unit import Unit
from yuntai.model.base import Record, new_id, now_utc
from yuntai.model.cluster import ClientToken, Job
from yuntai.model.lifecycle import LifecycleError
from yuntai.state import Unavailable, Uncertain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from yuntai.control.requests.types import Caller, Paging
    from yuntai.model.lifecycle import Allow, Machine
    from yuntai.state import Store

R = TypeVar("R")
T = TypeVar("T", bound=Record)

ATTEMPTS_MAX = 32
TOKEN_CHARS_MAX = 64
TOKEN_HOURS = 24
PAGE_SIZE_MAX = 100

_locks: weakref.WeakKeyDictionary[Any, dict[str, asyncio.Lock]] = weakref.WeakKeyDictionary()


def account_domain(account: str) -> str:
    """Return the guard domain of everything that an account owns."""
    return f"account:{account}"


async def transact(
    store: Store,
    caller: Caller,
    body: Callable[[Unit], Awaitable[R]],
    result: type[R],
    *,
    action: str = "",
    token: str = "",
    arguments: object = None,
    dry_run: bool = False,
) -> R:
    """Run ``body`` on a fresh unit and commit what it wrote, again when somebody else came first.

    Two requests of one account never pass each other: the unit holds the account's guard. With a ``token`` the second
    call with the same ``arguments`` answers what the first one did and writes nothing.
    """
    fingerprint = _fingerprint(action, token, arguments)
    async with _lock(store, caller.account):
        for attempt in range(ATTEMPTS_MAX):
            try:
                unit = Unit(store)
                await unit.guard(account_domain(caller.account), serial=True)
                replay = await _replay(unit, caller, action, token, fingerprint)
                if replay is not None:
                    return msgspec.convert(replay, result)
                answer = await body(unit)
                if dry_run:
                    raise errors.dry_run()
                if token:
                    response = {"result": msgspec.to_builtins(answer)}
                    unit.put(
                        ClientToken(
                            id=_token_id(caller, action, token),
                            fingerprint=fingerprint,
                            response=response,
                            created=now_utc(),
                        )
                    )
                if await unit.commit():
                    return answer
            except LifecycleError as error:
                raise ApiError(error.code, error.message, errors.FORBIDDEN) from error
            except Uncertain as error:
                raise ApiError(
                    "ServiceUnavailable",
                    "The request may or may not have been carried out; describe the resources, or repeat it with the "
                    "same ClientToken.",
                    errors.UNAVAILABLE,
                ) from error
            except Unavailable as error:
                raise ApiError(
                    "ServiceUnavailable",
                    "The store of the control plane does not answer; nothing was done; try again in some seconds.",
                    errors.UNAVAILABLE,
                ) from error
            await asyncio.sleep(random.uniform(0, min(0.2, 0.002 * 2**attempt)))  # noqa: S311 — jitter
    raise ApiError(
        "OperationConflict",
        f"The resources kept changing while the request was carried out ({ATTEMPTS_MAX} times); try again.",
        errors.CONFLICT,
    )


def _lock(store: Store, account: str) -> asyncio.Lock:
    """Return the lock that spares requests of one account in one process their conflicts in etcd."""
    return _locks.setdefault(store, {}).setdefault(account, asyncio.Lock())


def _token_id(caller: Caller, action: str, token: str) -> str:
    return f"{caller.account}:{action}:{token}"


def _fingerprint(action: str, token: str, arguments: object) -> str:
    if not token:
        return ""
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or not token.isprintable():
        raise errors.invalid("ClientToken", token, f"use up to {TOKEN_CHARS_MAX} printable ASCII characters")
    return hashlib.sha256(msgspec.json.encode([action, arguments], order="sorted")).hexdigest()


async def _replay(unit: Unit, caller: Caller, action: str, token: str, fingerprint: str) -> Any:
    if not token:
        return None
    known = await unit.get(ClientToken, _token_id(caller, action, token))
    if known is None or token_expired(known):
        return None
    if known.fingerprint != fingerprint:
        raise ApiError(
            "IdempotentParameterMismatch",
            f'The ClientToken "{token}" was used with other parameters; use a new token for a new request.',
        )
    return known.response["result"]


def token_expired(token: ClientToken) -> bool:
    """Tell whether a token is older than the 24 hours that it protects."""
    created = dt.datetime.fromisoformat(token.created)
    return dt.datetime.now(dt.UTC) - created > dt.timedelta(hours=TOKEN_HOURS)


def decide(machine: Machine, state: str, event: str, identifier: str) -> Allow:
    """Ask the life cycle; raise the API's error where it refuses."""
    try:
        return machine.step(state, event, identifier)
    except LifecycleError as error:
        raise ApiError(error.code, error.message, errors.FORBIDDEN) from error


async def owned(unit: Unit, kind: type[T], identifier: str, caller: Caller, *, field: str, what: str, code: str) -> T:
    """Return the caller's record, or the error for a missing field or a record that is not theirs."""
    if not identifier:
        raise errors.missing(field)
    found = await unit.get(kind, identifier) if identifier.isprintable() else None
    if found is None or getattr(found, "account", None) != caller.account:
        raise errors.not_found(what, identifier, code)
    return found


async def mine(store: Store, kind: type[T], caller: Caller) -> list[T]:
    """Return all records of a kind that the caller owns."""
    return [r.value for r in await store.list(kind) if getattr(r.value, "account", None) == caller.account]


def new_job(caller: Caller, action: str, resource: str, **arguments: Any) -> Job:
    """Return a job that the executor is to carry out."""
    now = now_utc()
    return Job(
        id=new_id("job"),
        action=action,
        account=caller.account,
        resource=resource,
        arguments=arguments,
        request_id=caller.request_id,
        created=now,
        updated=now,
    )


def matches(record: Any, *, ids: Sequence[str] = (), name: str = "", tags: dict[str, str | None] | None = None) -> bool:
    """Tell whether a record is among ``ids`` (if any), has the name (``*`` = anything) and all the tags."""
    if ids and record.id not in ids:
        return False
    if name and not fnmatch.fnmatchcase(record.name, name.replace("[", "[[]").replace("?", "[?]")):
        return False
    return all(key in record.tags and value in (None, record.tags[key]) for key, value in (tags or {}).items())


def paginate(records: Iterable[T], paging: Paging) -> Page[T]:
    """Return the page that was asked for, newest records first."""
    ordered = sorted(records, key=_age, reverse=True)
    if paging.next_token or paging.max_results is not None:
        size = paging.max_results if paging.max_results is not None else paging.page_size
        field = "MaxResults"
        start = _start_after(ordered, paging.next_token)
    else:
        size, field = paging.page_size, "PageSize"
        if paging.page_number < 1:
            raise errors.invalid("PageNumber", paging.page_number, "use 1 or more")
        start = (paging.page_number - 1) * size
    if not 1 <= size <= PAGE_SIZE_MAX:
        raise errors.invalid(field, size, f"use 1 to {PAGE_SIZE_MAX}")
    items = tuple(ordered[start : start + size])
    more = start + size < len(ordered)
    return Page(
        items=items,
        total=len(ordered),
        page_number=paging.page_number,
        page_size=size,
        next_token=_encode_token(items[-1]) if more and items else "",
    )


def _age(record: Record) -> tuple[str, str]:
    return cast("Any", record).created, record.id


def _encode_token(record: Record) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(_age(record))).decode()


def _start_after(ordered: Sequence[Record], token: str) -> int:
    """Return the index of the first record older than the token's: stable while records come and go."""
    if not token:
        return 0
    try:
        last = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[str, str])
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise errors.invalid("NextToken", token, "use the NextToken of the previous answer, or none") from error
    return next((index for index, record in enumerate(ordered) if _age(record) < last), len(ordered))
