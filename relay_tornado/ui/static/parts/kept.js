// What a bucket keeps, by its status as REST has it.
import { bytes } from "./basic.js";

/** The bytes of its events that are stored: those of an ephemeral bucket are not. */
export const storedBytes = ({ ephemeral, bytes: size }) => (ephemeral ? 0 : size);

export const sizeOf = (bucket) => (bucket.ephemeral ? "not stored" : bytes(bucket.bytes));
