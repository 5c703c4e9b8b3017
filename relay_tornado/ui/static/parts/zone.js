// Dates with their time, and the zone that both are by: the browser's.

const WHEN = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const ZONE = new Intl.DateTimeFormat("en", { timeZoneName: "shortOffset" });

/** UTC+5:30, by which times of this date (or its milliseconds) are shown; today's where it is none. */
export function zone(date) {
  const known = new Date(date);
  const parts = ZONE.formatToParts(Number.isNaN(known.getTime()) ? undefined : known);
  return parts.find(({ type }) => type === "timeZoneName").value.replace("GMT", "UTC");
}

/** A date with its time, and the same with its zone. */
export const moment = (date) => WHEN.format(date);
export const exactly = (date) => `${moment(date)} ${zone(date)}`;

/** Unix seconds as the value of a datetime-local input. */
export const local = (seconds) => moment(new Date(seconds * 1000)).replace(" ", "T");
