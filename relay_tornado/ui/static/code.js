// Code that is loaded when it is first needed.

/** How often each module could not be loaded, by its address. */
const failures = new Map();

/** Milliseconds after which an import that neither comes nor fails, as on a connection that is dead, counts as failed. */
const PATIENCE = 40_000;

const late = () => new Promise((_, reject) => {
  setTimeout(reject, PATIENCE, new Error("The code did not come."));
});

/** Imports a module by its whole address. After a failure it is asked for by another one: most browsers remember that a
 *  module could not be loaded, and do not ask for the same address again. */
export async function code(address) {
  const failed = failures.get(address) ?? 0;
  try {
    return await Promise.race([import(failed ? `${address}?${failed}` : address), late()]);
  } catch (error) {
    failures.set(address, failed + 1);
    throw error;
  }
}

/** A function that loads what a module exports, as `Loaded` wants it: part(import.meta.resolve("./events.js")). */
export const part = (address, name = "default") => () => code(address).then((module) => module[name]);
