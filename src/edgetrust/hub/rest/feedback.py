"""Feedback for services: what became of their cloud-to-device messages, in batches (hub specification 6.1 and 10)."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from edgetrust.hub.rest.parts import PARTS
from edgetrust.store.feedback import FeedbackBatch, FeedbackRecord, Outcome
from edgetrust.trust.policies import Right

routes = web.RouteTableDef()

_CONTENT_TYPE = "application/vnd.microsoft.iothub.feedback.json"
_DESCRIPTIONS = {
    Outcome.SUCCESS: "Success",
    Outcome.EXPIRED: "Message Expired",
    Outcome.DELIVERY_COUNT_EXCEEDED: "Message Delivery Count Exceeded",
    Outcome.REJECTED: "Message Rejected",
    Outcome.PURGED: "Message Purged",
}


@routes.get("/messages/serviceBound/feedback")
async def receive_feedback(request: web.Request) -> web.Response:
    """The oldest records, locked for a minute; 204 when there is none. The ETag completes or abandons them."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    batch = await parts.feedback.lease()
    return web.Response(status=204) if batch is None else _answer(batch)


@routes.delete("/messages/serviceBound/feedback/{lock_token}")
async def complete_feedback(request: web.Request) -> web.Response:
    """The service has dealt with a batch."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    await parts.feedback.settle(request.match_info["lock_token"], keep=False)
    return web.Response(status=204)


@routes.post("/messages/serviceBound/feedback/{lock_token}/abandon")
async def abandon_feedback(request: web.Request) -> web.Response:
    """Give a batch back: it is read again."""
    parts = request.app[PARTS]
    await parts.access.service(request, Right.SERVICE_CONNECT)
    await parts.feedback.settle(request.match_info["lock_token"], keep=True)
    return web.Response(status=204)


def feedback_entries(records: tuple[FeedbackRecord, ...]) -> list[dict[str, Any]]:
    """The records as the body of a feedback message."""
    return [
        {
            "originalMessageId": record.message_id,
            "enqueuedTimeUtc": record.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "statusCode": record.outcome.value,
            "description": _DESCRIPTIONS[record.outcome],
            "deviceId": record.device,
            "deviceGenerationId": record.generation,
        }
        for record in records
    ]


def _answer(batch: FeedbackBatch) -> web.Response:
    body = msgspec.json.encode(feedback_entries(batch.records))
    return web.Response(body=body, content_type=_CONTENT_TYPE, headers={"ETag": f'"{batch.lock_token}"'})
