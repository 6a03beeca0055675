"""What ``python -m asgicore check`` holds an application against, besides the rules of the lint.

A section is where the specification speaks of it. An error costs somebody something: a connection, a thread, data. A
warning is a recommendation. Whoever disagrees with one leaves it out with ``--ignore``.
"""

from __future__ import annotations

from typing import Final

from .._lint.rules import (
    BODY,
    CORE_ERRORS,
    CORE_OVERVIEW,
    CORE_PROTOCOLS,
    DISCONNECT,
    HTTP_SCOPE,
    REQUEST,
    SEND_EXCEPTION,
    START,
    Level,
    Rule,
)

__all__ = ["CHECK_RULES"]


def _rule(name: str, level: Level, section: str, text: str) -> Rule:
    return Rule(name=name, by="application", level=level, section=section, text=text)


_ALL = [
    # --- requests
    _rule("request-raised", "error", CORE_ERRORS, "a legal request is answered, and not raised at the server"),
    _rule("answered-500", "warning", "RFC 9110 section 15.6.1", "500 says that the application is broken"),
    _rule("unanswered", "note", START, "an answer begins before a client gives up"),
    _rule("parts-differ", "error", REQUEST, "a body is the same in one part and in many"),
    _rule("cookies-split", "error", "RFC 9113 section 8.2.3", "several cookie fields are one, joined by semicolons"),
    _rule("header-alias", "error", "RFC 3875 section 4.1.18", "x_forwarded_for is not the header x-forwarded-for"),
    _rule("header-cost", "error", "RFC 9110 section 5.4", "repeated headers cost what their number tells, or a 4xx"),
    _rule("odd-scope", "error", HTTP_SCOPE, "what servers give in a scope, or leave out, is no error"),
    _rule("bad-scope", "warning", HTTP_SCOPE, "what servers get wrong in a scope ends in no traceback"),
    _rule("none-as-text", "warning", HTTP_SCOPE, "a server on a unix socket has no port"),
    _rule("root-cut", "error", HTTP_SCOPE, "root_path is a prefix by whole segments"),
    _rule("root-beside", "warning", HTTP_SCOPE, "a path that is not under the root is answered as without a root"),
    _rule("query-refused", "note", HTTP_SCOPE, "bytes of a query that are no text concern who reads them as text"),
    _rule("extra-message", "warning", REQUEST, "a message after the body that says nothing does no harm"),
    _rule("range-wrong", "error", "RFC 9110 section 14.4", "a part is the one that content-range names, of the whole"),
    _rule("range-ignored", "note", "RFC 9110 section 14.2", "who asks for a part of a file may be sent all of it"),
    _rule("websocket-raised", "note", CORE_PROTOCOLS, "a handshake can be refused without a traceback"),
    # --- clients that leave
    _rule("truncated-answered", "error", DISCONNECT, "an upload that was cut off is not taken for a whole one"),
    _rule("disconnect-as-error", "warning", DISCONNECT, "a client that leaves is no error of the application"),
    _rule("disconnect-raised", "warning", SEND_EXCEPTION, "what reaches the server of a client that left is OSError"),
    _rule("works-on", "error", DISCONNECT, "work for a client ends when the client has left"),
    _rule("trusts-send", "warning", SEND_EXCEPTION, "some servers claim 2.4, and their send() says nothing"),
    _rule("waits-for-disconnect", "warning", BODY, "a call ends after the final message, whatever receive() does"),
    _rule("pool-stuck", "error", DISCONNECT, "clients that left hold up nobody else"),
    _rule("late-disconnect", "warning", BODY, "what receive() says once the response is complete is no error"),
    # --- cancellation from outside
    _rule("ignores-cancel", "error", CORE_OVERVIEW, "a call that is cancelled ends"),
    _rule("cancel-relabelled", "warning", CORE_OVERVIEW, "who cancels is told of it, and of nothing else"),
    # --- what is left behind
    _rule("task-left", "error", CORE_OVERVIEW, "no task outlives its request"),
    _rule("thread-left", "error", CORE_OVERVIEW, "no thread works on for a request that has ended"),
    _rule("generator-left", "warning", "PEP 525", "asynchronous generators are closed by who stops iterating them"),
    _rule("file-left", "warning", CORE_OVERVIEW, "what was opened is closed"),
    _rule("leak-tasks", "error", CORE_OVERVIEW, "requests leave no tasks behind"),
    _rule("leak-threads", "error", CORE_OVERVIEW, "requests leave no threads behind"),
    _rule("leak-files", "error", CORE_OVERVIEW, "requests leave no open descriptors behind"),
    _rule("leak-cycles", "warning", CORE_OVERVIEW, "requests leave no work to the garbage collector"),
    # --- resources
    _rule("memory", "error", BODY, "an application waits for send(): what it holds meanwhile is bounded"),
    _rule("disk-on-loop", "warning", CORE_OVERVIEW, "files are opened in threads, not on the event loop"),
    _rule("loop-held", "error", CORE_OVERVIEW, "an application lets the event loop go on"),
    _rule("body-unlimited", "warning", "RFC 9110 section 15.5.14", "a body that is too large is refused"),
    _rule("uploads-hold", "error", REQUEST, "who uploads slowly holds up nobody else"),
    _rule("threads-unlimited", "error", CORE_OVERVIEW, "threads are limited"),
    _rule("threads-started", "warning", CORE_OVERVIEW, "threads are used again"),
    _rule("serial", "warning", CORE_OVERVIEW, "requests that wait do so beside each other"),
    # --- of the check itself
    _rule("stuck", "error", CORE_OVERVIEW, "the event loop goes on: nothing was heard of the application"),
    _rule("crashed", "error", CORE_OVERVIEW, "no request ends the process"),
]

CHECK_RULES: Final = {rule.name: rule for rule in _ALL}
"""Every rule of the check by its name."""
