"""
Schedules in the form of cron: minute, hour, day of the month, month, day of the week.

vault: ``robfig/cron``'s standard parser, on the server's local time. Names of months and days, and ``@every``, are not
understood here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_RANGES: Final = (("minute", 0, 59), ("hour", 0, 23), ("day-of-month", 1, 31), ("month", 1, 12), ("day-of-week", 0, 6))
_SHORT: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# Four years and some: the 29th of February comes within them.
_FARTHEST: Final = timedelta(days=5 * 366)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """
    The instants that *text* names; *fields* has the allowed values, in the order of the text.
    """

    text: str
    fields: tuple[frozenset[int], ...]

    def next(self, instant: float) -> float:
        """
        Return the first instant after *instant*, both in seconds since 1970; raise ValueError if there is none.
        """
        moment = datetime.fromtimestamp(instant).astimezone().replace(second=0, microsecond=0) + timedelta(minutes=1)
        end = moment + _FARTHEST
        while moment < end:
            if not self._is_day(moment):
                moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
            elif moment.hour not in self.fields[1]:
                moment = moment.replace(minute=0) + timedelta(hours=1)
            elif moment.minute not in self.fields[0]:
                moment += timedelta(minutes=1)
            else:
                return moment.timestamp()
        raise ValueError(f"{self.text} never comes")

    def _is_day(self, moment: datetime) -> bool:
        _, _, days, months, weekdays = self.fields
        if moment.month not in months:
            return False
        day, weekday = moment.day in days, moment.isoweekday() % 7 in weekdays
        # Where both are restricted, one of them is enough.
        restricted = len(days) < 31 and len(weekdays) < 7
        return day or weekday if restricted else day and weekday


def parse_schedule(text: str) -> Schedule:
    """
    Return the schedule; raise ValueError with what is wrong.
    """
    parts = _SHORT.get(text.strip(), text).split()
    if len(parts) != len(_RANGES):
        raise ValueError(f"expected exactly {len(_RANGES)} fields, found {len(parts)}: [{' '.join(parts)}]")
    fields = tuple(_values(part, *allowed) for part, allowed in zip(parts, _RANGES, strict=True))
    return Schedule(text=text, fields=fields)


def _values(part: str, name: str, least: int, greatest: int) -> frozenset[int]:
    """
    Return the values of one field: ``*``, ``5``, ``1-5``, ``*/10``, ``1-30/2``, and lists of these.
    """
    found: set[int] = set()
    for one in part.split(","):
        span, _, step = one.partition("/")
        first, _, last = span.partition("-")
        try:
            low = least if first in ("*", "?") else int(first)
            high = int(last) if last else greatest if first in ("*", "?") or step else low
            every = int(step) if step else 1
        except ValueError:
            raise ValueError(f"failed to parse {name} from {one!r}") from None
        if not least <= low <= high <= greatest or every < 1:
            raise ValueError(f"{name} {one!r} is not within {least} and {greatest}")
        found |= set(range(low, high + 1, every))
    return frozenset(found)
