// What every module of the page builds on: Preact with htm's templates, and signals. Import from here, not from vendor/.
import { createElement, render } from "./vendor/preact.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { batch, computed, effect, signal } from "./vendor/signals.js";
import htm from "./vendor/htm.js";

/** Templates in place of JSX: html`<p class="x">${text}</p>`. Values are text or elements, never markup. */
export const html = htm.bind(createElement);

export { batch, computed, effect, render, signal, useEffect, useLayoutEffect, useMemo, useRef, useState };
