"""A person at a real browser: Debian's Chromium, in which nothing that goes wrong stays unseen."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from base64 import b64encode
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium", path="/usr/bin")

PHONE = (320, 640)
"""CSS pixels of the narrowest phone, and of WCAG 2.2's criterion on reflow (1.4.10)."""
DESK = (1280, 900)

# What a page must not be: wider than the window, or with a control that is not named or not to be seen.
_WIDTH = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
_UNNAMED = """[...document.querySelectorAll('input, textarea, select, button, a')]
    .filter(e => e.type !== 'hidden' && !e.hidden)
    .filter(e => e.labels && e.type !== 'submit' ? !e.labels.length || !e.labels[0].innerText.trim()
        : !e.innerText.trim())
    .map(e => e.outerHTML)"""
# What has the focus: which element, by its name to a person; and whether one sees that it has it.
_FOCUS = """(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
    if (e === document.body) return null;
    const seen = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2
        && r.right > 0 && r.bottom > 0 && r.width > 0 && r.height > 0;
    return [(e.labels && e.labels.length ? e.labels[0] : e).innerText.trim(), seen]; })()"""


@contextlib.contextmanager
def chromium(certificate: x509.Certificate) -> Iterator[Browser]:
    """A running browser that takes this HTTPS certificate for a good one.

    It is named by its key, because a browser that was told to overlook errors keeps no pages to go back to.
    """
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = b64encode(hashlib.sha256(key).digest()).decode()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", f"--ignore-certificate-errors-spki-list={pin}"],
            # Going back is as with people: to the page as it was, if the browser kept it.
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield browser
        browser.close()


class Person:
    """One person's browser: cookies of their own, one page, and a record of what went wrong on it."""

    def __init__(self, browser: Browser, origin: str, size: tuple[int, int] = DESK) -> None:
        self.origin = origin
        self._context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self._context.set_default_timeout(10_000)
        self.page: Page = self._context.new_page()
        self.wrong: list[str] = []
        """What the browser complained of, on pages of the server: its console, scripts, refused loads."""
        self.fetched: list[str] = []
        """What pages of the server had it load."""
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on("request", self._request)
        self.page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        # The status of the page itself is an answer (403, 404, 422), and no fault in it.
        of_the_page = message.text.startswith("Failed to load resource: the server responded with a status")
        if of_the_page and message.location["url"] == self.page.url:
            return
        if message.type in ("error", "warning") and self.page.url.startswith(self.origin):
            self.wrong.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        if self.page.url.startswith(self.origin):
            self.fetched.append(request.url)

    def close(self) -> None:
        """Put the browser away; ``AssertionError`` where something went wrong in it."""
        self._context.close()
        assert self.wrong == []

    # What they do.

    def open(self, where: str) -> None:
        """Follow a link, or go to a path of the server."""
        self.page.goto(where if where.startswith("https:") else self.origin + where)

    def login(self, name: str, password: str) -> None:
        """Fill in the login page that is open."""
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.press("Log in")

    def press(self, button: str) -> None:
        """Press a button, and see the page that it leads to."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=button, exact=True).click()

    def back(self) -> None:
        """Press the browser's back button."""
        # A page that was kept is not loaded again.
        self.page.go_back(wait_until="commit")
        self.page.wait_for_function("document.readyState === 'complete'")

    def tab(self) -> str | None:
        """Tab on: to what, by the name that a person knows it by. It must be seen where one is."""
        self.page.keyboard.press("Tab")
        focus = self.page.evaluate(_FOCUS)
        if focus is None:
            return None
        name, seen = focus
        assert seen, f"the focus is not to be seen: {name}"
        return str(name)

    # What they see.

    @property
    def path(self) -> str:
        """Where they are, without the query."""
        return self.page.url.removeprefix(self.origin).partition("?")[0]

    def text(self) -> str:
        """All the text on the page, as shown."""
        return self.page.locator("body").inner_text()

    def problem(self) -> str:
        """What the page says is wrong."""
        return self.page.get_by_role("alert").inner_text()

    def assert_fit(self) -> None:
        """The page fits the window, and every control on it says what it is."""
        width, window = self.page.evaluate(_WIDTH)
        assert width <= window, f"{self.page.url}: {width} > {window}"
        assert self.page.evaluate(_UNNAMED) == []
