// An event as REST has it, and why there is none.
import { ApiError, get, v1 } from "../api.js";

/** Why an event is not there, by what REST says of its id as a cursor, which may name one that has left. */
const WHY = [
  [/is no event id/, "This is no event's id. A whole one is like k3v9x1q7m2ab-42."],
  [/none of these buckets/, "No bucket that you can see holds this event: its bucket was deleted, your token does not have it, or it never existed."],
  [/names no event/, "There is no such event in its bucket: it never existed, or the log has lost it."],
];
const LEFT = "This event is no longer kept: its bucket's retention removed it.";

async function why(id, abort) {
  try {
    await get(v1("logs"), { cursor: id, limit: 1 }, abort);
  } catch (error) {
    if (error.status !== 400) throw error;
    return WHY.find(([said]) => said.test(error.message))?.[1] ?? LEFT;
  }
  return LEFT;
}

const noCopy = (id) => `No output ${id.split("-")[2]} gets this event: its rules don't fit, or it was deleted. The event itself is ${eventId(id)}.`;

/** Loads an event. Throws an ApiError that says why where it is not there: 404. */
export async function loadLog(id, abort) {
  try {
    return await get(v1("logs", id), undefined, abort);
  } catch (error) {
    if (error.status !== 404 || /damaged/.test(error.message)) throw error;
    if (/does not go to an output/.test(error.message)) throw new ApiError(404, { message: noCopy(id) });
    throw new ApiError(404, { message: await why(id, abort) });
  }
}

/** The id of an event without the number of an output. */
export const eventId = (id) => id.split("-").slice(0, 2).join("-");

/** The id of the event before one in its bucket. */
export async function olderThan(bucket, id) {
  const page = await get("/v1/search", { bucket, cursor: eventId(id), limit: 1 });
  return page.data[0]?.id ?? null;
}

/** The id of the event after one. */
export async function newerThan(bucket, id) {
  const page = await get("/v1/events", { bucket, cursor: eventId(id), limit: 1 });
  return page.logs[0]?.id ?? null;
}
