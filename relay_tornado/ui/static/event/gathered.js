// What comes in one by one and is drawn together, ten times a second at most: drawing in every frame takes most of a slow processor.

/** Milliseconds from one time to the next. */
const REST = 100;

/** Hands on all that was added, in a frame; in none if there is more than `most`, since a page that is not seen has none. */
export class Gathered {
  constructor(most, handOn) {
    Object.assign(this, { most, handOn, items: [], frame: 0, drawn: -REST });
  }

  /** What was added last, if it was not handed on. */
  get last() {
    return this.items.at(-1);
  }

  add(item) {
    this.items.push(item);
    if (this.items.length > this.most) this.flush();
    else this.frame ||= requestAnimationFrame((now) => this.draw(now));
  }

  draw(now) {
    if (now - this.drawn < REST) {
      this.frame = requestAnimationFrame((later) => this.draw(later));
      return;
    }
    this.drawn = now;
    this.flush();
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const items = this.items.splice(0);
    if (items.length) this.handOn(items);
  }

  clear() {
    this.items = [];
  }
}
