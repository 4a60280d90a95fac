/** Taking turns: so many at once, the others in the order of asking. */

export class Turns {
  constructor(atOnce) {
    this.free = atOnce;
    this.waiting = [];
  }

  /** Do something when it is its turn; returns what it returns. */
  async take(something) {
    if (this.free > 0) this.free -= 1;
    else await new Promise((resolve) => this.waiting.push(resolve));
    try {
      return await something();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free += 1;
    }
  }
}
