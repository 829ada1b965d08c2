"""The sections of the settings tree about messages, and about which results go where."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.fields import AETitle, DestinationName, MessageText, Section

# With * for any text and ? for any one character; capital letters and small ones are the same.
Pattern = Annotated[str, Field(min_length=1, max_length=64)]
Band = Literal["none", "mild", "moderate", "severe"]
SystemUri = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*:\S+$")]
Outcome = Literal["analysed", "not_analysed"]


class MessageSettings(Section):
    """What every HL7 and FHIR message of this node says of itself and of its patients."""

    sending_application: MessageText = "DICOM-NODE"  # MSH-3
    sending_facility: MessageText = ""  # MSH-4
    processing_id: Literal["P", "T", "D"] = "P"  # MSH-11: production, training, debugging
    assigning_authority: MessageText = ""  # of a PatientID whose image names no issuer
    # URI by issuer or assigning authority: `system` of the identifier in FHIR; an OID
    # (urn:oid:1.2.3) is the universal ID of the assigning authority in HL7 too.
    identifier_systems: dict[str, SystemUri] = Field(default_factory=dict)


class RouteSettings(Section):
    """One rule about where the results of a study go: all conditions hold, or it says nothing.

    Routes that match add up; none after a matching one with `last` is asked.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    calling_aets: tuple[AETitle, ...] = ()  # who sent an image of it
    stations: tuple[Pattern, ...] = ()  # Station Name (0008,1010)
    institutions: tuple[Pattern, ...] = ()  # Institution Name (0008,0080)
    bands: tuple[Band, ...] = ()  # of the study's figure
    min_percent: Annotated[float, Field(ge=0, le=100)] | None = None  # the same
    states: tuple[Outcome, ...] = ()  # not_analysed: nothing in the study was
    send_to: tuple[DestinationName, ...] = ()
    last: bool = False

    @model_validator(mode="after")
    def _it_can_match_and_says_something(self) -> Self:
        if self.states == ("not_analysed",) and (self.bands or self.min_percent is not None):
            msg = (
                f"route {self.name} never matches: a study without analysed image has no band and "
                "no percentage"
            )
            raise ValueError(msg)
        if not self.send_to and not self.last:
            msg = f"route {self.name} sends nowhere: name destinations in send_to, or set last"
            raise ValueError(msg)
        return self
