// What a test asks of the page: the parts of it that cannot be read well. Gives a list of complaints.
(() => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = ({ rgb }) => {
    const [r, g, b] = rgb.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.a === 1) return colour;
      if (colour.a > 0) throw new Error("a ground that shines through");
    }
    throw new Error("no ground");
  };
  const seen = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const complaints = [];
  const check = (element, colour, least, what) => {
    const found = contrast(parse(colour), ground(element));
    if (found < least) complaints.push(`${what} of ${element.tagName} "${element.textContent.slice(0, 30)}": ${found.toFixed(2)}, not ${least}`);
  };
  let texts = 0;
  for (const element of document.body.querySelectorAll("*")) {
    if (!seen(element) || element.closest(".unseen, noscript, title")) continue;
    const style = getComputedStyle(element);
    const has = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "");
    if (has) {
      texts += 1;
      check(element, element.closest("svg") ? style.fill : style.color, 4.5, "text");
      if (Number.parseFloat(style.fontSize) < 11) complaints.push(`text of ${style.fontSize}: ${element.textContent}`);
    }
    if (element.matches(".icon, .line, .curve")) check(element, style.color, 3, "shape");
    if (element.matches(".mark-shape, .braid rect")) check(element, style.stroke, 3, "shape");
    if (element.matches("input[type=search]")) check(element.parentElement, style.borderTopColor, 3, "border");
  }
  if (texts < 20) complaints.push(`only ${texts} texts were looked at`);
  if (document.documentElement.scrollWidth > innerWidth) {
    const wide = [...document.body.querySelectorAll("*")].filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5);
    complaints.push(`${document.documentElement.scrollWidth} wide, not ${innerWidth}: ${wide.slice(0, 5).map((element) => element.outerHTML.slice(0, 80)).join(" ")}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) complaints.push("an id is there twice");
  return complaints;
})()
