"""`/events`: a stream that says which kind of page is out of date. No patient data is in it."""

from fastapi import APIRouter, HTTPException, Request, status
from fastapi.responses import StreamingResponse

from dicom_node.web.changes import Changes, TooManyStreamsError
from dicom_node.web.pages.site import Viewer


def routes(changes: Changes) -> APIRouter:
    """Return the route."""
    router = APIRouter(include_in_schema=False)

    @router.get("/events")
    async def events(request: Request, who: Viewer) -> StreamingResponse:
        """Stream until the page is left, the node ends, or a quarter of an hour is over."""
        try:
            stream = changes.listen(who.name, request.is_disconnected)
        except TooManyStreamsError as error:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "too many pages follow what happens: this one looks once a minute",
                {"Retry-After": "60"},
            ) from error
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return router
