"""A headless Chromium that looks at a page as a user does."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
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
    "--window-size=1600,2400",
)
PATIENCE = 90.0
CURVE = """
for (const chart of document.querySelectorAll('.js-plotly-plot')) {
    for (const trace of chart.data || []) {
        if (trace.metricKey === arguments[0] && trace.y && trace.y.length) {
            return {x: Array.from(trace.x), y: Array.from(trace.y)};
        }
    }
}
return null;
"""
PICTURE = """
const drawn = [...document.images].filter(image => image.src.startsWith('blob:') && image.naturalWidth);
return drawn.length ? [drawn[0].naturalWidth, drawn[0].naturalHeight] : null;
"""
"""MLflow fetches a picture among the artifacts and gives it to an <img>; its own are no blobs."""


class Browser:
    """Waits for what a page is to show; pages of MLflow are put together bit by bit."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get("about:blank")  # or a change behind the # would leave what is there in place
        self.driver.get(url)

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """The first true answer of a condition."""
        ignored = (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            NoSuchElementException,
            StaleElementReferenceException,
        )
        waiting = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.2, ignored_exceptions=ignored)
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"the page does not show {what}; it says:\n{self.text()[:5000]}") from None

    def wait_for(self, *texts: str) -> str:
        """The page's text, once it has all of these."""
        return str(self.wait(repr(texts), lambda: all(text in self.text() for text in texts) and self.text()))

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def fields(self, placeholder: str) -> list[Any]:
        """Fields to type into."""
        return list(self.driver.find_elements(By.CSS_SELECTOR, f"input[placeholder='{placeholder}']"))

    def type(self, field: Any, text: str) -> None:
        """Replace what a field has."""
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def click(self, xpath: str) -> None:
        """As soon as it can be clicked on: pages are drawn again while they are looked at."""

        def click() -> bool:
            self.driver.find_element(By.XPATH, xpath).click()
            return True

        self.wait(xpath, click)

    def curve(self, metric: str) -> Any:
        """Steps and values as the chart of a metric draws them; None while there is none."""
        return self.driver.execute_script(CURVE, metric)

    def picture(self) -> Any:
        """Pixels of the artifact that is drawn, [width, height]; None without one."""
        return self.driver.execute_script(PICTURE)


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
