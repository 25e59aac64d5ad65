"""Requests on key pairs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import credentials, quotas, validate
from yuntai.control.requests.base import matches, mine, owned, paginate, transact
from yuntai.control.requests.types import CreatedKeyPair, InstanceResponse
from yuntai.model.base import now_utc
from yuntai.model.compute import Instance, KeyPair

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store

NAMES_MAX = 50


def key_id(caller: Caller, name: str) -> str:
    """Return the record's id of an account's key pair."""
    return f"{caller.account}:{name}"


async def create_key_pair(
    store: Store, caller: Caller, name: str, *, tags: dict[str, str] | None = None
) -> CreatedKeyPair:
    """CreateKeyPair: the private key is in the answer and nowhere else."""
    _check_name(name)
    private, public = await asyncio.to_thread(credentials.new_key)
    return await _add(store, caller, name, public, private, tags)


async def import_key_pair(
    store: Store, caller: Caller, name: str, public_key: str, *, tags: dict[str, str] | None = None
) -> CreatedKeyPair:
    """ImportKeyPair."""
    _check_name(name)
    if not public_key:
        raise errors.missing("PublicKeyBody")
    return await _add(store, caller, name, credentials.check_public_key(public_key), "", tags)


def _check_name(name: str) -> None:
    if not name:
        raise errors.missing("KeyPairName")
    validate.name("KeyPairName", name, code="InvalidKeyPairName.Malformed")


async def _add(
    store: Store, caller: Caller, name: str, public: str, private: str, tags: dict[str, str] | None
) -> CreatedKeyPair:
    checked = validate.tags(tags)

    async def body(unit: Unit) -> CreatedKeyPair:
        if await unit.get(KeyPair, key_id(caller, name)) is not None:
            raise ApiError(
                "KeyPair.AlreadyExist",
                f'The key pair "{name}" exists already; delete it first, or choose another name.',
            )
        await quotas.need(unit, caller.account, keypairs=1)
        record = KeyPair(
            id=key_id(caller, name),
            account=caller.account,
            name=name,
            public_key=public,
            fingerprint=credentials.fingerprint(public),
            tags=checked,
            created=now_utc(),
        )
        unit.put(record)
        return CreatedKeyPair(id=record.id, name=name, fingerprint=record.fingerprint, private_key=private)

    return await transact(store, caller, body, CreatedKeyPair)


async def need_key_pair(unit: Unit, caller: Caller, name: str) -> KeyPair:
    """Return the caller's key pair or the API's error."""
    if not name:
        raise errors.missing("KeyPairName")
    return await owned(
        unit,
        KeyPair,
        key_id(caller, name),
        caller,
        field="KeyPairName",
        what="key pair",
        code="InvalidKeyPairName.NotFound",
    )


async def delete_key_pairs(store: Store, caller: Caller, names: tuple[str, ...]) -> None:
    """DeleteKeyPairs; a name that is not there is no error. Guests that have the key keep it."""
    if not names:
        raise errors.missing("KeyPairNames")
    if len(names) > NAMES_MAX:
        raise errors.invalid("KeyPairNames", f"{len(names)} names", f"give at most {NAMES_MAX}")

    async def body(unit: Unit) -> None:
        for name in names:
            if await unit.get(KeyPair, key_id(caller, name)) is None:
                continue
            users = [i.id for i in await unit.list(Instance) if i.account == caller.account and i.key_pair == name]
            if users:
                raise errors.dependency(
                    "InvalidParameter.KeypairAlreadyAttachedInstance",
                    f'The key pair "{name}" is bound to {", ".join(users[:5])}; detach it from them first.',
                )
            unit.delete(KeyPair, key_id(caller, name))

    await transact(store, caller, body, type(None))


async def describe_key_pairs(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    name: str = "",
    fingerprint: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[KeyPair]:
    """DescribeKeyPairs; ``name`` may hold ``*``."""
    found = [
        pair
        for pair in await mine(store, KeyPair, caller)
        if matches(pair, name=name, tags=tags) and fingerprint in ("", pair.fingerprint)
    ]
    return paginate(found, paging)


async def attach_key_pair(
    store: Store, caller: Caller, name: str, instance_ids: tuple[str, ...]
) -> list[InstanceResponse]:
    """AttachKeyPair: the metadata of the instances names the key from now on."""
    return await _bind(store, caller, name, instance_ids, bound=True)


async def detach_key_pair(
    store: Store, caller: Caller, name: str, instance_ids: tuple[str, ...]
) -> list[InstanceResponse]:
    """DetachKeyPair: the metadata names it no longer; what a guest has written to its disk stays there."""
    return await _bind(store, caller, name, instance_ids, bound=False)


async def _bind(
    store: Store, caller: Caller, name: str, instance_ids: tuple[str, ...], *, bound: bool
) -> list[InstanceResponse]:
    if not instance_ids:
        raise errors.missing("InstanceIds")
    if len(instance_ids) > NAMES_MAX:
        raise errors.invalid("InstanceIds", f"{len(instance_ids)} ids", f"give at most {NAMES_MAX}")

    async def body(unit: Unit) -> list[InstanceResponse]:
        await need_key_pair(unit, caller, name)
        responses = []
        for instance_id in dict.fromkeys(instance_ids):
            instance = await owned(
                unit,
                Instance,
                instance_id,
                caller,
                field="InstanceIds",
                what="InstanceId",
                code="InvalidInstanceId.NotFound",
            )
            if bound or instance.key_pair == name:
                unit.put(msgspec.structs.replace(instance, key_pair=name if bound else ""))
            responses.append(
                InstanceResponse(
                    instance_id=instance_id, previous_status=instance.status, current_status=instance.status
                )
            )
        return responses

    return await transact(store, caller, body, list[InstanceResponse])
