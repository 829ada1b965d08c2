"""What the sections of the settings tree are made of: checked values, and their common base."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_AE_TITLE_MAX = 16  # PS3.5 6.2, VR AE


def _ae_title(text: str) -> str:
    title = text.strip()
    if not 0 < len(title) <= _AE_TITLE_MAX or "\\" in title or not title.isascii():
        msg = f"AE title {text!r} must have 1 to 16 ASCII characters and no backslash"
        raise ValueError(msg)
    return title


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(str(value).strip())
    except ValueError as error:
        msg = f"{value} is no network ({error}): write 10.1.0.0/16, 10.1.2.3 or fd00:1::/32"
        raise ValueError(msg) from error
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return ip_network((mapped, network.prefixlen - 96)) if mapped else network


def ae_title_of(account: str, otherwise: str) -> str:
    """Return an account's name as an AE title; `otherwise` where nothing of it can be one."""
    readable = "".join(it for it in account if it.isascii() and it.isprintable() and it != "\\")
    return readable.strip()[:_AE_TITLE_MAX].strip() or otherwise


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Port = Annotated[int, Field(ge=0, le=65535)]
DestinationName = Annotated[str, Field(min_length=1, max_length=64)]  # as the column
HostName = Annotated[str, Field(min_length=1, max_length=255)]  # the same
Days = Annotated[float, Field(ge=0, le=36_500)]  # what lies so far back has a date
Captures = Literal["never", "fallback", "always"]
Wanted = Literal["never", "always"]
Priority = Literal["HIGH", "MEDIUM", "LOW"]  # Scheduled Procedure Step Priority (0074,1200)
PurgeableState = Literal["analysed", "not_analysed", "failed", "withdrawn", "superseded"]
Description = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]  # LO
# HL7 v2 HD: a name, or name^universal ID^type of it.
MessageText = Annotated[str, Field(max_length=180, pattern=r"^[^|~\\\x00-\x1f]*$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    """One section: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
