"""`/events`: a stream that says which kind of page is out of date. No patient data is in it."""

from typing import Annotated, Final

from fastapi import APIRouter, Header, HTTPException, Query, Request, status
from fastapi.responses import StreamingResponse

from dicom_node.web.changes import Changes, TooManyStreamsError
from dicom_node.web.pages.site import Viewer

_MOST: Final = (1 << 63) - 1


def routes(changes: Changes) -> APIRouter:
    """Return the route."""
    router = APIRouter(include_in_schema=False)

    @router.get("/events")
    async def events(
        request: Request,
        who: Viewer,
        since: Annotated[int | None, Query(ge=0, le=_MOST)] = None,
        last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")] = None,
    ) -> StreamingResponse:
        """Stream until the page is left, the node ends, or a quarter of an hour is over.

        `since` is where the page stood when it was made; who comes back stands at the last message.
        """
        begin = int(last_event_id) if last_event_id else since
        try:
            stream = changes.listen(who.name, request.is_disconnected, begin)
        except TooManyStreamsError as error:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "too many pages follow what happens: this one looks once a minute",
                {"Retry-After": "60"},
            ) from error
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return router
