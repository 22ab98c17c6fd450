"""A headless Chromium that looks at a page as a user does."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1600,1400",
)
PATIENCE = 60.0


class Browser:
    """Waits for what a page is to show; pages of MLflow are put together bit by bit."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """The first true answer of a condition."""
        waiting = WebDriverWait(
            self.driver, PATIENCE, poll_frequency=0.2, ignored_exceptions=(StaleElementReferenceException,)
        )
        try:
            return waiting.until(lambda _: condition())
        except Exception as error:
            raise AssertionError(f"the page never shows {what}; it says:\n{self.text()[:3000]}") from error

    def wait_for(self, *texts: str) -> str:
        """The page's text, once it has all of these."""
        return str(self.wait(repr(texts), lambda: all(text in self.text() for text in texts) and self.text()))

    def text(self) -> str:
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def click(self, xpath: str) -> None:
        self.wait(xpath, lambda: self.driver.find_elements(By.XPATH, xpath))[0].click()


def require(program: str, package: str) -> str:
    found = shutil.which(program)
    assert found, f"{program} is not installed; this test needs Debian's package: apt-get install {package}"
    return found


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Chromium with a profile folder of its own; it ends with the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = require("chromium", "chromium")
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(require("chromedriver", "chromium-driver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
