"""What is kept of a wearer belongs to them: all of it exported, or all of it deleted."""

import argparse
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from services import __version__
from services.broker import BrokerError, answers
from services.commands.diary import write_csv
from services.commands.shared import broker_host, existing_store, forget_on_broker, load, store_path
from services.serving import lock_path, only_one
from services.settings import Settings, SettingsError
from services.store import Store, StoreError

_TABLES = ("diary", "checkin", "calibration", "exercise", "episode", "cue", "summary/day", "summary/night")

_README = """\
All that Unshrug {version} keeps of the wearer {wearer}.

messages/TOPIC.jsonl  each message as it was published, oldest first, one JSON object a line. The highest `seq` of an
                      `id` is what counts; those before it are its history. Schemas: `schema` in each, and the
                      program's services/schemas.
TOPIC.csv             the same as a table, one line for each `id`, as it is now. UTF-8, times with their offset.
values.json           what the program keeps for itself: tallies of days, settings changed live, what was withdrawn.
settings.json         the settings, without passwords.

Recordings (`unshrug record`, `unshrug run --record`) are files of your own and not in here.
"""


def export(options: argparse.Namespace) -> int:
    """Write all that is kept of the wearer into one archive."""
    settings = load(options)
    path: Path = options.out
    if path.suffix.lower() != ".zip":
        raise SettingsError(f"{path}: expected a name that ends in .zip, for all that is kept of {settings.wearer.id}")
    if not path.parent.is_dir():
        raise SettingsError(f"{path}: there is no folder {path.parent}; expected one that is there")
    store = existing_store(settings)
    if store is None:
        raise StoreError(f"{store_path(settings)}: nothing is kept of {settings.wearer.id}")
    with closing(store), tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unshrug-", delete=False) as made:
        try:
            with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in _files(store, settings.wearer.id, asdict(settings)):
                    archive.writestr(name, text)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # so that it is no other's place
            os.replace(made.name, path)  # a hard link would do both, but USB sticks know none
        except FileExistsError:
            raise SettingsError(f"{path}: it is there already; expected a new name") from None
        finally:
            Path(made.name).unlink(missing_ok=True)
    print(f"all that is kept of {settings.wearer.id} is in {path}")
    return 0


def _files(store: Store, wearer: str, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "README.txt", _README.format(version=__version__, wearer=wearer)
    yield "settings.json", json.dumps(settings, indent=1, ensure_ascii=False)
    yield "values.json", json.dumps(store.values(), indent=1, ensure_ascii=False)
    for topic in store.topics():
        name = topic.replace("/", "_")
        yield f"messages/{name}.jsonl", "".join(f"{payload}\n" for payload in store.payloads(topic))
    for topic in _TABLES:
        rows = store.latest(topic)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = StringIO(newline="")
        write_csv(table, rows, columns or ["id"])
        yield f"{topic.replace('/', '_')}.csv", table.getvalue()


def forget_me(options: argparse.Namespace) -> int:
    """Delete all that is kept of the wearer, here and on the broker."""
    settings = load(options)
    wearer, path = settings.wearer.id, store_path(settings)
    with only_one(wearer):  # a service that runs would write it again
        mine = sorted(found for found in path.parent.glob(f"{path.name}*") if found.is_file())
        print(f"This deletes for ever what is kept of {wearer}:")
        print("\n".join(f"  {found}" for found in mine) or "  nothing is kept on this machine")
        print("  and what is retained on the broker, with that also the device in Home Assistant")
        print("Recordings and plan are files of your own; they stay. `unshrug export --out FILE.zip` keeps a copy.")
        if not options.yes and _typed(f"Type {wearer} to delete it: ") != wearer:
            print("unshrug: nothing was deleted", file=sys.stderr)
            return 1
        for found in mine:
            found.unlink(missing_ok=True)
        done = _forgotten_on_broker(settings)
        lock_path(wearer).unlink(missing_ok=True)  # while it is held: it is nobody else's
    print(f"nothing is kept of {wearer} {'any more' if done else 'in files here any more'}")
    return 1 if done is False else 0


def _forgotten_on_broker(settings: Settings) -> bool | None:
    """Remove what is retained, and say how that went; None where no broker was found, and there may never be one."""
    mqtt, host = settings.mqtt, broker_host(settings.mqtt)
    if not mqtt.enabled:
        return True
    later = "`unshrug mqtt forget` does that later"
    if mqtt.broker == "auto" and not answers(host, mqtt.port):  # our own keeps nothing, but that of the machine may
        print(f"unshrug: no broker at {host}:{mqtt.port} to remove anything from; should one keep something, {later}",
              file=sys.stderr)  # fmt: skip
        return None
    try:
        print(f"removed from {forget_on_broker(settings)}")
    except (BrokerError, SettingsError) as error:
        print(f"unshrug: deleted here, but not on the broker: {error}; {later}", file=sys.stderr)
        return False
    return True


def _typed(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""
