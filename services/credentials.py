"""Secrets: read from where only we may look, and told to nobody."""

import os
import stat
from pathlib import Path

from services.settings import MqttSettings, SettingsError

_CREDENTIAL = "mqtt-password"


def password(settings: MqttSettings) -> str | None:
    """Return the password for the broker, None where there is none.

    It is in `mqtt.password_file`, else in what systemd passes as the credential `mqtt-password`. Raises SettingsError
    for a file that cannot be read, that others may read or change, or that is empty.
    """
    given = os.environ.get("CREDENTIALS_DIRECTORY") or None
    if settings.password_file:
        path = Path(settings.password_file)
    elif given and (found := Path(given, _CREDENTIAL)).exists():
        path = found
    else:
        return None
    try:
        about = path.stat()
        passed = given is not None and path.resolve().is_relative_to(
            Path(given).resolve()
        )  # systemd sees to its rights
        if not passed and about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"{path}: others may read this password; expected: chmod 600 {path}")
        if about.st_uid not in (0, os.geteuid()):
            raise SettingsError(f"{path}: this password is another user's; expected: chown {os.geteuid()} {path}")
        word = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"mqtt.password_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"mqtt.password_file: {path}: not UTF-8 text") from None
    if not word:
        raise SettingsError(f"mqtt.password_file: {path}: empty; expected the password")
    return word
