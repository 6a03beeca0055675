"""Server-sent events over real connections."""

from __future__ import annotations

from event_streams import EventSource

from .servers import Server


def listen(server: Server, ident: str, **fields: str) -> EventSource:
    """What a client has when it got its first ping; then it leaves."""
    source = EventSource()
    headers = {"accept": "text/event-stream", **fields}
    # A connection of its own: over HTTP/2, httpx does not reset a stream that it leaves.
    with server.client() as client, client.stream("GET", f"/events?id={ident}", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        assert "content-length" not in response.headers
        for part in response.iter_raw():
            source.feed(part)
            if source.comments:
                return source
    raise AssertionError("the stream has ended")


def test_client_that_reconnects_gets_what_it_has_not_got_yet(server: Server, ident: str) -> None:
    """Events and pings arrive while the stream is open; a client that leaves ends it, and goes on where it was."""
    source = listen(server, ident)
    assert [(event.kind, event.data) for event in source.events] == [
        *(("number", '{"number":1}'), ("message", "after\n1")),
        *(("number", '{"number":3}'), ("message", "after\n3")),
    ]
    assert (source.last_event_id, source.retry) == ("3", 10)
    server.await_event(ident, "closed")
    source = listen(server, f"{ident}again", **{"last-event-id": source.last_event_id})
    assert [event.last_event_id for event in source.events] == ["4", "4", "6", "6"]
    server.await_event(f"{ident}again", "closed")
    assert server.events(f"{ident}again") == ["began at 4", "streaming", "closed"]
