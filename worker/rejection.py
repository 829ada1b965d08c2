"""Our rejection note: a Key Object Selection Document about objects made from a rejected image.

IHE RAD TF-3 4.66; PS3.3 A.35.4; PS3.16 TID 2010. Its title is that of the note that rejected the
image, so that a receiver treats both alike.
"""

import warnings
from collections.abc import Sequence
from typing import Final

from highdicom import ko, sr
from pydicom.dataset import Dataset

from models.identity import DEVICE_SERIAL_NUMBER, MANUFACTURER, NODE_MODEL_NAME
from models.reasons import SENTENCES, Reason
from worker import codes
from worker.equipment import ObjectContext, content_arguments, finish, node_equipment

_DESCRIPTION: Final = "AI results of a rejected image. {} Research use only, not for diagnosis."


def build_rejection_note(
    objects: Sequence[Dataset], reason: Reason, number: int, context: ObjectContext
) -> ko.KeyObjectSelectionDocument:
    """Return the note about `objects`, of one study; the same input gives the same bytes.

    `number` is its Instance Number. Raises ValueError without objects, KeyError for a reason that
    takes no result back.
    """
    ordered = sorted(objects, key=lambda ds: str(ds.SOPInstanceUID))
    if not ordered:
        msg = "a rejection note names at least one object"
        raise ValueError(msg)
    context = context.beside(ordered[0])
    title = codes.REJECTIONS[reason]
    study = str(ordered[0].StudyInstanceUID)
    key = (study, title.value, *(str(ds.SOPInstanceUID) for ds in ordered))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        note = ko.KeyObjectSelectionDocument(
            evidence=ordered,
            content=ko.KeyObjectSelection(
                document_title=title,
                referenced_objects=ordered,
                observer_device_context=_observer(context),
                description=_DESCRIPTION.format(SENTENCES[reason]),
            ),
            series_instance_uid=context.uid("ko-series", *key),
            sop_instance_uid=context.uid("ko", *key),
            series_number=context.objects.ko_series_number,
            instance_number=number,
            series_description=context.objects.ko_series_description,
            **content_arguments(context),
            series_date=context.created.date(),
            series_time=context.created.time(),
            **node_equipment(context),
        )
        finish(note, ordered[0], context)
    return note


def _observer(context: ObjectContext) -> sr.ObserverContext:
    return sr.ObserverContext(
        observer_type=sr.CodedConcept.from_code(codes.DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=context.uid("device", NODE_MODEL_NAME),
            name=NODE_MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=NODE_MODEL_NAME,
            serial_number=DEVICE_SERIAL_NUMBER,
        ),
    )
