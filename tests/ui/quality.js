// Runs in the page before its own scripts: what the tests of quality.py ask of it.
{
  const CAN_PRESS = "a[href], button, input, select, textarea, summary";
  const CAN_FOCUS = `${CAN_PRESS}, [tabindex="0"]`;
  const clickable = new Set();
  let wanted = [];
  let reached = new Set();

  const add = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function addEventListener(type, ...rest) {
    if (type === "click" && this instanceof Element) clickable.add(this);
    return add.call(this, type, ...rest);
  };

  // Ends with the answer's body, and once the page has drawn what it made of it.
  let asking = 0;
  const ask = window.fetch;
  window.fetch = async (...request) => {
    asking += 1;
    const done = () => setTimeout(() => (asking -= 1));
    try {
      const response = await ask(...request);
      response.clone().arrayBuffer().then(done, done);
      return response;
    } catch (error) {
      done();
      throw error;
    }
  };

  const usable = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.disabled
    && element.getAttribute("tabindex") !== "-1";
  const called = (element) => `${element.tagName.toLowerCase()} ${element.getAttribute("aria-label") ?? element.name ?? ""} ${
    (element.innerText ?? "").trim().slice(0, 40)}`;

  window.quality = {
    /** How many requests have no answer yet. */
    get asking() {
      return asking;
    },

    /** Begins anew: how often Tab is to be pressed to pass everything that can be used, in the topmost dialog or else in the page. */
    begin() {
      const scope = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document;
      const groups = new Set();
      reached = new Set();
      wanted = [...scope.querySelectorAll(CAN_FOCUS)].filter(usable).filter((element) => {
        if (element.type !== "radio") return true;
        const first = !groups.has(element.name);
        groups.add(element.name);
        return first;
      });
      document.activeElement?.blur();
      // A date and its time have a stop for each of their parts.
      return wanted.reduce((stops, element) => stops + (element.type === "datetime-local" ? 8 : 1), 0);
    },

    /** Notes where the focus is; what is wrong with it, or "". */
    step() {
      const element = document.activeElement;
      if (!element || element === document.body) return "";
      for (const each of element.type === "radio" ? document.getElementsByName(element.name) : [element]) reached.add(each);
      const marks = [element, element.closest(".list"), document.getElementById(element.getAttribute("aria-activedescendant"))];
      const seen = element.type === "datetime-local" || marks.some((each) => each && getComputedStyle(each).outlineStyle !== "none");
      return seen ? "" : `no focus is seen on ${element.outerHTML.slice(0, 120)}`;
    },

    /** What Tab did not pass, and what only a mouse can press. */
    missed() {
      const left = wanted.filter((each) => each.isConnected && !reached.has(each)).map((each) => `Tab does not reach ${called(each)}`);
      const pressed = [...clickable].filter((each) => each.isConnected && each.checkVisibility() && !each.matches(CAN_FOCUS)
        && !each.matches('dialog, [role="tab"]') && !each.closest(".uplot"));
      return left.concat(pressed.map((each) => `only a mouse can click ${each.outerHTML.slice(0, 160)}`));
    },

    /** What is under 24 px high or wide and can be pressed; a link within a sentence may be. */
    small() {
      const scope = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document;
      const found = [...scope.querySelectorAll(`${CAN_PRESS}, [role="tab"]`)].filter(usable).filter((element) => {
        const words = [...element.parentElement.childNodes].some((each) => each.nodeType === Node.TEXT_NODE && each.data.trim());
        if (element.tagName === "A" && (words || element.matches(".skip"))) return false;
        const { width, height } = (element.labels?.[0]?.contains(element) ? element.labels[0] : element).getBoundingClientRect();
        return width > 1 && (Math.round(width) < 24 || Math.round(height) < 24);
      });
      return found.map((each) => `too small to press: ${each.outerHTML.slice(0, 120)}`);
    },

    /** What makes the page wider than its window. */
    sideways() {
      const { clientWidth, scrollWidth } = document.documentElement;
      if (scrollWidth <= clientWidth) return [];
      const wide = [...document.querySelectorAll("body *")].filter((each) => each.getBoundingClientRect().right > clientWidth + 0.5
        && !each.closest(".scroll, .list, .tabs, pre"));
      return [`the page is ${scrollWidth} px wide`, ...wide.slice(0, 5).map((each) => each.outerHTML.slice(0, 120))];
    },
  };
}
