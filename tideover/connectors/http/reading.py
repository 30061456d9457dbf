"""What comes back on one connection, read as answers by llhttp (httptools), one after the other. No I/O.

llhttp is strict where two readings are possible: a length beside chunks, two lengths, a length that is no number. It
is as lenient as the usual clients with lines that end without CR, odd characters in values, and spaces after a chunk's
size.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tideover.connectors.http.answer import Answer, Garbled, Headers, Inflater, Oversize, Trouble

MAX_HEAD = 64 * 1024  # bytes of all headers of one answer, with its interim answers and trailers


class _Unreadable(Exception):
    """Raised in a callback, so that the parser stops."""


class AnswerReader:
    """Reads an answer in whatever pieces it comes. Interim answers (1xx) are skipped.

    `is_over`: nothing more is needed: it is whole, or has met its `trouble`. `stays`: the connection may be used again.
    """

    def __init__(self, cap: int) -> None:
        """`cap`: bytes of a body, as it comes and decoded."""
        self._cap = cap
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.begin(is_head=False)

    def begin(self, *, is_head: bool) -> None:
        """An answer is expected now; `is_head`: it has headers only, whatever they say of a body."""
        self._is_head = is_head
        self._status = self._head_bytes = self._field_bytes = self._body_bytes = 0
        self._fields: list[tuple[str, str]] = []
        self._headers: Headers | None = None
        self._body = bytearray()
        self._inflater: Inflater | None = None
        self._is_delimited = True
        self.trouble: Trouble | None = None
        self.is_over = self.stays = False

    def feed(self, data: bytes) -> None:
        """The next bytes that came."""
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.stays = False  # after the end of an answer: it is whole, and what follows it is nobody's
            if not self.is_over:
                self._fail("unreadable")
        if self._headers is None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._fail("unreadable")

    def end(self) -> None:
        """The other side has closed its direction in good order, which ends a body without a length."""
        if self._headers is None or self._is_delimited:
            self._fail("unreadable")
        elif not self.is_over:
            self._finish()

    def answer(self, trouble: Trouble | None = None) -> Answer | None:
        """What came so far, with its own trouble or this one; None as long as its headers are not whole."""
        if self._headers is None:
            return None
        return Answer(self._status, self._headers, bytes(self._body), self.trouble or trouble)

    def close(self) -> None:
        """Lets go of the parser, which holds on to this object."""
        self._parser = None

    # --- what the parser calls ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_over:
            raise _Unreadable  # a second answer

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_bytes += len(name) + len(value) + 4
        if self._field_bytes > MAX_HEAD:
            raise _Unreadable
        # After the headers it is a trailer, which nobody looks at.
        self._fields.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._fields.clear()
            return
        if status < 200:
            raise _Unreadable
        self._status, self._headers = status, Headers(self._fields)
        self.stays = self._parser.should_keep_alive()
        self._look(self._headers)

    def on_body(self, piece: bytes) -> None:
        if self._headers is None or self.is_over:
            raise _Unreadable
        self._body_bytes += len(piece)
        if self._body_bytes > self._cap:
            self._stop("oversize")
        if self._inflater is not None:
            try:
                piece = self._inflater.feed(piece)
            except Oversize:
                self._stop("oversize")
            except Garbled:
                self._stop("unreadable")
        self._body += piece

    def on_message_complete(self) -> None:
        if self._headers is not None and not self.is_over:
            self._finish()

    # --------------------------------------------------------------------------------------------------------------

    def _look(self, headers: Headers) -> None:
        """Takes from the headers how the body is delimited and coded."""
        transfer = headers.get("transfer-encoding")
        if transfer is not None and transfer.lower() != "chunked":
            self._stop("unreadable")
        self._is_delimited = transfer is not None or "content-length" in headers
        coding = headers.get("content-encoding")
        if coding is not None:
            try:
                self._inflater = Inflater(coding, self._cap)
            except Garbled:
                self._stop("unreadable")
        if self._is_head:
            self.is_over, self.stays = True, False  # the parser waits for the body that the headers speak of

    def _finish(self) -> None:
        try:
            if self._inflater is not None:
                self._inflater.finish()
        except Garbled:
            self._fail("unreadable")
        self.is_over = True

    def _stop(self, trouble: Trouble) -> None:
        self._fail(trouble)
        raise _Unreadable

    def _fail(self, trouble: Trouble) -> None:
        self.trouble = self.trouble or trouble
        self.is_over, self.stays = True, False
