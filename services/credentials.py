"""Secrets: read from where only we may look."""

import os
import stat
from pathlib import Path

from services.settings import MqttSettings, SettingsError


def password(settings: MqttSettings) -> str | None:
    """Read the password; refuse a file that others may read."""
    path = settings.password_file
    if not path:
        return None
    try:
        mode = os.stat(path).st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"{path}: others may read this password; expected: chmod 600 {path}")
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"mqtt.password_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"mqtt.password_file: {path}: not UTF-8 text") from None
