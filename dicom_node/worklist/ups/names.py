"""The names of the service: SOP Classes, well-known instances, actions, attributes."""

from typing import Final

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

# PS3.4 CC.3.1. Every workitem is an instance of Push, whatever class was negotiated.
PUSH: Final = UID("1.2.840.10008.5.1.4.34.6.1")
WATCH: Final = UID("1.2.840.10008.5.1.4.34.6.2")
PULL: Final = UID("1.2.840.10008.5.1.4.34.6.3")
EVENT: Final = UID("1.2.840.10008.5.1.4.34.6.4")
QUERY: Final = UID("1.2.840.10008.5.1.4.34.6.5")
GLOBAL_SUBSCRIPTION: Final = UID("1.2.840.10008.5.1.4.34.5")
FILTERED_SUBSCRIPTION: Final = UID("1.2.840.10008.5.1.4.34.5.1")

SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

# Action Type IDs, PS3.4 Tables CC.2.1-1, CC.2.2-1 and CC.2.3-1
CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5

# What each SOP Class lets its SCU do with us (PS3.4 Tables CC.2-2, CC.2-3 and CC.2-5).
ACTIONS: Final[dict[UID, frozenset[int]]] = {
    PULL: frozenset({CHANGE_STATE}),
    WATCH: frozenset({REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND}),
    QUERY: frozenset(),
}

# CID 9231, General Purpose Workitem Definition
INTERPRETATION: Final = ("110005", "DCM", "Interpretation")
# CID 9300: why a procedure step was discontinued
DISCONTINUED: Final = ("110513", "DCM", "Discontinued for unspecified reason")

# What a performer may set (PS3.4 Table CC.2.5-3, column N-SET).
SETTABLE: Final = frozenset(
    {
        "ProcedureStepProgressInformationSequence",
        "UnifiedProcedureStepPerformedProcedureSequence",
    }
)
