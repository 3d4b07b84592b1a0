"""The HTTP API's calls: each a function over the desk, and the table that routes and /openapi.json are made from."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from enforcer.registry.changes import form_changes
from enforcer.registry.desk import Desk
from enforcer.registry.states import Registration
from enforcer.registry.web import models
from enforcer.registry.web.operations import Call, Operation

ANYBODY_KNOWN = ("applicant", "isp", "officer", "auditor")
OFFICER_ACTIONS = ("approve", "reject", "revoke", "suspend", "renew")
_VERBS = {
    "approve": "Approve a pending application",
    "reject": "Reject a pending application",
    "revoke": "Take a registration off the allowlist for good",
    "suspend": "Take a registration off the allowlist until it is renewed",
    "renew": "Start the validity again, or lift a suspension",
}


def status(desk: Desk, registration: Registration) -> models.Status:
    """What a call answers about a registration: its state, what is on the form, and all that was done, oldest first."""
    form = registration.application
    events = list(desk.ledger.events(registration.number))
    changed = {each.sequence: each for each in form_changes(events)}
    return models.Status(
        registration=registration.number,
        state=registration.state,
        serial=desk.ledger.serial,
        version=registration.version,
        is_verified=registration.is_verified,
        registrant=form.registrant,
        category=form.category,
        purpose=form.purpose,
        documents=[models.NamedDocument(kind=each.kind, reference=each.reference) for each in form.documents],  # type: ignore[arg-type]
        provider=form.provider,
        subscriber_id=form.subscriber_id,
        contact=form.contact,
        subscriber_prefixes=list(form.subscriber_prefixes),
        new_prefixes=list(registration.new_prefixes),
        endpoint_prefixes=list(form.endpoint_prefixes),
        endpoint_ports=list(form.endpoint_ports),
        protocols=list(form.protocols),  # type: ignore[arg-type]
        valid_from_ns=registration.valid_from_ns,
        valid_until_ns=registration.valid_until_ns,
        refusal=registration.refusal,
        verification_due_ns=registration.verification_due_ns,
        decision_due_ns=registration.decision_due_ns,
        renewal_asked_ns=registration.renewal_asked_ns,
        appeal=_appeal_status(registration),
        history=[
            models.HistoryLine(
                at_ns=event.at_ns,
                action=event.action,
                actor=event.actor,
                reason=event.reason,
                verified=event.data["verified"] if event.action == "verify" else None,
                changed=[each.field for each in changed[event.sequence].fields]
                if event.sequence in changed
                else None,
            )
            for event in events
        ],
    )


def _appeal_status(registration: Registration) -> models.AppealStatus | None:
    appeal = registration.appeal
    if appeal is None:
        return None
    return models.AppealStatus(
        about=appeal.about,
        text=appeal.text,
        at_ns=appeal.at_ns,
        due_ns=appeal.due_ns,
        granted=appeal.is_granted,
        answer=appeal.answer,
    )


async def _apply(call: Call[Any, Any]) -> models.Received:
    registration, token = call.office.desk.apply(call.body.form(), call.by)
    return models.Received(
        registration=registration.number,
        token=token,
        state=registration.state,
        serial=call.office.desk.ledger.serial,
    )


async def _look(call: Call[Any, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.look(call.number, call.by))


async def _verify(call: Call[models.Verification, Any]) -> models.Status:
    desk = call.office.desk
    body = call.body
    return status(
        desk,
        desk.verify(
            call.number,
            body.verified,
            body.reason,
            call.by,
            (body.why or "") if not body.verified else "",
            body.version,
        ),
    )


def _decide(action: str) -> Callable[[Call[models.Decision, Any]], Awaitable[models.Status]]:
    async def decide(call: Call[models.Decision, Any]) -> models.Status:
        desk = call.office.desk
        return status(desk, desk.decide(call.number, action, call.body.reason, call.by, call.body.version))

    return decide


async def _correct(call: Call[models.Correction, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.correct(call.number, call.body.changes(), call.by))


async def _change_address(call: Call[models.NewAddress, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.change_address(call.number, call.body.subscriber_prefixes, call.by))


async def _ask_renewal(call: Call[Any, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.ask_renewal(call.number, call.by))


async def _withdraw(call: Call[models.Reason, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.withdraw(call.number, call.body.reason, call.by))


async def _appeal(call: Call[models.NewAppeal, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.appeal(call.number, call.body.about, call.body.text, call.by))


async def _answer_appeal(call: Call[models.AppealAnswer, Any]) -> models.Status:
    desk = call.office.desk
    return status(desk, desk.answer_appeal(call.number, call.body.granted, call.body.reason, call.by))


async def _queue(call: Call[Any, Any]) -> models.Queue:
    desk = call.office.desk
    pending = [status(desk, each) for each in desk.visible(call.by, "pending")]
    return models.Queue(pending=pending, serial=desk.ledger.serial)


async def _list(call: Call[Any, models.ListQuery]) -> models.Listed:
    desk, query = call.office.desk, call.query
    found = desk.visible(call.by, query.state, query.after, query.limit + 1)
    more = found[query.limit - 1].number if len(found) > query.limit else None
    return models.Listed(registrations=[status(desk, each) for each in found[: query.limit]], after=more)


async def _bulk(call: Call[models.BulkRows, models.BulkQuery]) -> models.BulkAnswer:
    lines = "\n".join(json.dumps(each) for each in call.body.rows)
    report = call.office.desk.apply_all("rows.jsonl", lines, call.by, call.query.trial)
    return models.BulkAnswer(
        applied=report.is_applied,
        rows=[
            models.BulkLine(row=each.row, registration=each.registration, problems=list(each.problems))
            for each in report.rows
        ],
    )


_NUMBER = "/applications/{number:int}"
OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST", "/applications", "apply", "Apply for a registration", _apply, models.Received,
        body=models.ApplicationForm, status=201,
        about="With an account's token the registration is the account's; without one, the answer's token is the only key to it.",
    ),
    Operation(
        "POST",
        "/applications/bulk",
        "bulk",
        "Many applications at once: all of them, or none and what is wrong with which",
        _bulk,
        models.BulkAnswer,
        body=models.BulkRows,
        query=models.BulkQuery,
        roles=("applicant", "officer"),
        about="With an account's token the registrations are the account's.",
    ),
    Operation("GET", "/applications", "list", "List the registrations that the token may see", _list, models.Listed, query=models.ListQuery, roles=ANYBODY_KNOWN),
    Operation("GET", _NUMBER, "look", "One registration: state, form, history", _look, models.Status, roles=ANYBODY_KNOWN),
    Operation("POST", f"{_NUMBER}/verify", "verify", "The provider's answer about line and subscriber", _verify, models.Status, body=models.Verification, roles=("isp",), errors=(409,), about="An answer of false bars approval until it is verified again."),
    *(
        Operation("POST", f"{_NUMBER}/{action}", action, _VERBS[action], _decide(action), models.Status, body=models.Decision, roles=("officer",), errors=(409,))
        for action in OFFICER_ACTIONS
    ),
    Operation("POST", f"{_NUMBER}/correct", "correct", "Correct an application that is not decided yet", _correct, models.Status, body=models.Correction, roles=("applicant",), errors=(409,), about="The provider is asked again when the name, the provider, the subscriber number or the line's addresses change. What is decided cannot be corrected: 409."),
    Operation("POST", f"{_NUMBER}/change-address", "change-address", "The line has other addresses now", _change_address, models.Status, body=models.NewAddress, roles=("applicant",), errors=(409,)),
    Operation("POST", f"{_NUMBER}/ask-renewal", "ask-renewal", "Ask for a renewal; an officer renews", _ask_renewal, models.Status, roles=("applicant",), errors=(409,)),
    Operation("POST", f"{_NUMBER}/withdraw", "withdraw", "Give the registration up, for good", _withdraw, models.Status, body=models.Reason, roles=("applicant",), errors=(409,)),
    Operation("POST", f"{_NUMBER}/appeal", "appeal", "Appeal against a rejection, or report a block of what is registered", _appeal, models.Status, body=models.NewAppeal, roles=("applicant",), errors=(409,)),
    Operation("POST", f"{_NUMBER}/answer-appeal", "answer-appeal", "The officer's answer to an appeal", _answer_appeal, models.Status, body=models.AppealAnswer, roles=("officer",), errors=(409,), about="A rejection whose appeal is granted is pending again."),
    Operation("GET", "/queue", "queue", "Pending applications, oldest first", _queue, models.Queue, roles=("officer", "isp")),
)  # fmt: skip
