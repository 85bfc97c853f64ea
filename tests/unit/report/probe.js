// What someone would notice on the page, for test_browser.py. The page itself runs no script.
window.probe = (() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const look = element => getComputedStyle(element);

  // As WCAG 2 defines it: of the lighter to the darker colour's luminance.
  const contrast = (...colours) => {
    const [dark, light] = colours.map(colour => colour.match(/[\d.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
      .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0)).sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  // What lies behind a word: its own colour, or that of the first element around it that has one.
  const behind = element => {
    const colour = look(element).backgroundColor;
    return /, 0\)$/.test(colour) && element.parentElement ? behind(element.parentElement) : colour;
  };
  const words = () => all("body *").filter(
    element => [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  const named = element => `${element.tagName} ${element.textContent.trim().slice(0, 60)}`;

  const isCut = element => look(element).overflowX !== "visible" && element.scrollWidth > element.clientWidth;
  const isShown = element => element.checkVisibility() && element.getBoundingClientRect().height > 0;
  const stops = () => all("a, button, input, select, textarea, summary, .scroll, body *").filter(
    element => element.matches("a, button, input, select, textarea, summary, .scroll") || isCut(element)
  ).filter(isShown);
  const inView = element => {
    const box = element.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  };
  const veils = within => all(".veiled", within).map(text => look(text).filter !== "none");

  return {
    unfold: () => all("details").forEach(folded => { folded.open = true; }),
    isDark: () => matchMedia("(prefers-color-scheme: dark)").matches,
    images: () => [...document.images].map(image => image.naturalWidth > 0 && image.alt !== ""),
    scrolls: () => all(".scroll").map(box => box.tabIndex === 0 && look(box).overflowX === "auto"),
    tables: () => all("table").map(table => table.closest(".scroll") !== null),
    overflow: () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
    // How far down the words go, whatever the page says of its own height.
    reach: () => Math.max(...words().map(word => word.getBoundingClientRect().bottom + scrollY)),
    // Shown or not, words that cannot be read well.
    faint: () => words().filter(word => contrast(look(word).color, behind(word)) < 4.5).map(named),
    // Words that are there but not on the paper, or not whole.
    missing: () => words().filter(word => !isShown(word) && !word.closest("nav, .all")).map(named),
    cut: () => all("body *").filter(element => isShown(element) && isCut(element)).map(named),
    veils: () => all("article").map(article => veils(article)),
    middle: () => {
      document.querySelector("article").scrollIntoView();
      const box = document.querySelector("article").getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    },

    numStops: () => stops().length,
    // Where the keyboard is.
    stop: () => {
      const here = document.activeElement;
      return {
        place: stops().indexOf(here), tag: here.tagName, name: here.getAttribute("aria-label") ?? named(here),
        // Not every browser lets the keyboard scroll what is not made a stop.
        is_stop: here.tabIndex === 0, in_view: inView(here), cut: isCut(here),
        ring: look(here).outlineStyle === "none" ? 0 : contrast(look(here).outlineColor, behind(here.parentElement)),
      };
    },
    // Whether what has the keyboard did what it is there for, a moment after a key.
    isUsed: async () => {
      await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
      const here = document.activeElement;
      if (here.matches("summary")) return here.parentElement.open;
      if (here.matches("input")) return !veils(here.closest("article") ?? document).some(veil => veil);
      return here.scrollLeft > 0;
    },
    // Whether a link has led to where it points; the keyboard is then on the link again.
    isFollowed: place => {
      const link = stops()[place], target = document.getElementById(link.hash.slice(1));
      const isThere = link.hash === location.hash && target !== null && inView(target);
      link.focus();
      return isThere;
    },
  };
})();
