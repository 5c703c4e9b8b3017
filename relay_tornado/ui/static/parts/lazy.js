// Parts of the page whose code is loaded when they are first shown.
import { html, useEffect, useState } from "../lib.js";
import { Loading, Problem } from "./basic.js";

const AGAIN = 3000;
const NOT_LOADED = new Error("This part of the page could not be loaded. It is tried again; if it does not come, reload the page.");
const parts = new Map();

/** A part of the page whose code is loaded when it is first shown: `load` imports it. Other properties are the part's. */
export function Loaded({ load, ...rest }) {
  const [state, setState] = useState({});
  const Part = parts.get(load);
  useEffect(() => {
    let [timer, ended] = [0, false];
    const run = async () => {
      let failed = false;
      try {
        parts.set(load, await load());
      } catch {
        failed = true;
      }
      if (ended) return;
      setState({ load, failed });
      if (failed) timer = setTimeout(run, AGAIN);
    };
    if (!Part) run();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [load]);
  if (Part) return html`<${Part} ...${rest} />`;
  return state.failed && state.load === load ? html`<${Problem} error=${NOT_LOADED} />` : html`<${Loading} />`;
}
