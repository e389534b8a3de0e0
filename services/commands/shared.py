"""What more than one command needs: the settings, the broker, and how to be stopped."""

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from services.broker import BrokerError
from services.contract import RETAINED, root_of
from services.homeassistant import topic_of
from services.mqtt import visit
from services.serving import first_use, state_folder
from services.settings import MqttSettings, Settings, SettingsError, load_settings
from services.store import Store


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Turn Ctrl-C, Ctrl-\\, Ctrl-Z, SIGTERM and a closed terminal into an event; a second signal ends at once.

    Ctrl-Z ends too: a stopped program could not stop its motor.
    """
    stop = threading.Event()
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        numbers.remove(signal.SIGHUP)

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def broker_host(mqtt: MqttSettings) -> str:
    """Return where the broker is that the settings name."""
    return "127.0.0.1" if mqtt.broker == "auto" else mqtt.broker


def config_path(options: argparse.Namespace) -> Path | None:
    """Return the settings file: the one that is asked for, else the usual one. Raises SettingsError."""
    if options.config is not None:
        return Path(options.config)
    try:
        usual = (config_home() / "unshrug" / "unshrug.toml", Path("/etc/unshrug/unshrug.toml"))
        return next((path for path in usual if path.exists()), None)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise SettingsError(f"{what}; expected readable settings, or --config FILE") from None


def config_home() -> Path:
    """Return the folder of the user's own configuration."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def load(options: argparse.Namespace) -> Settings:
    """Read the settings. Raises SettingsError."""
    path = config_path(options)
    return load_settings(path) if path else Settings()


def existing_store(settings: Settings) -> Store | None:
    """Open the wearer's store, None where there is none. Raises StoreError."""
    path = store_path(settings)
    return Store(path, settings.store.most_mib) if path.exists() else None


def store_path(settings: Settings) -> Path:
    """Return where the wearer's store is."""
    return state_folder(settings.store) / f"{settings.wearer.id}.sqlite3"


def tell_first_use(settings: Settings) -> None:
    """Print what a wearer should read before the first use, once."""
    with closing(Store(store_path(settings), settings.store.most_mib)) as store:
        for line in first_use(store):
            print(line)


def forget_on_broker(settings: Settings) -> str:
    """Remove what is retained of the wearer; return where. Raises BrokerError."""
    wearer, mqtt = settings.wearer.id, settings.mqtt
    host = broker_host(mqtt)
    kept = [f"{root_of(wearer)}/{topic}" for topic in RETAINED]
    wrong = visit(mqtt, host, mqtt.port, [topic_of(wearer), *kept])
    if wrong is not None:
        raise BrokerError(f"{host}:{mqtt.port}: {wrong}")
    return f"{host}:{mqtt.port}"
