// Looks at every page in an iframe of this document; faults end up in #findings, as JSON.
const found = [];

// WCAG 2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
function luminance(color) {
  const [r, g, b] = color.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

// A computed color over an opaque one.
function over(text, ground) {
  const [r, g, b, alpha = 1] = text.match(/[\d.]+/g).map(Number);
  return [r, g, b].map((value, i) => alpha * value + (1 - alpha) * ground[i]);
}

function check(frame) {
  const page = frame.contentDocument;
  const view = frame.contentWindow;
  const say = (text) => found.push(`${frame.title}: ${text}`);
  const behind = (element) =>
    element
      ? over(view.getComputedStyle(element).backgroundColor, behind(element.parentElement))
      : [255, 255, 255];
  const scheme = `(prefers-color-scheme: ${frame.style.colorScheme})`;
  if (!view.matchMedia(scheme).matches) say("another color scheme");
  for (const fold of page.querySelectorAll("details")) fold.open = true;
  if (page.documentElement.scrollWidth > view.innerWidth) say("scrolls sideways");
  for (const image of page.images) if (!image.naturalWidth) say("broken image");
  for (const table of page.querySelectorAll("table")) {
    if (table.scrollWidth > table.parentElement.clientWidth + 1) say("hidden column");
  }
  for (const cell of page.querySelectorAll("th, td")) {
    const text = cell.firstChild;
    if (cell.parentElement.children.length > 6 || !/^\w{1,12}$/.test(text?.data)) continue;
    const range = page.createRange();
    range.selectNode(text);
    if (range.getClientRects().length > 1) say(`broken word ${text.data}`);
  }
  const nodes = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const text = nodes.currentNode.data.trim();
    const element = nodes.currentNode.parentElement;
    if (!text || !element.checkVisibility()) continue;
    const ground = behind(element);
    const ratio = contrast(over(view.getComputedStyle(element).color, ground), ground);
    if (ratio < 4.5) say(`contrast ${ratio.toFixed(1)} of ${text.slice(0, 20)}`);
    const range = page.createRange();
    range.selectNode(nodes.currentNode);
    const words = range.getBoundingClientRect();
    for (let box = element; box !== page.body; box = box.parentElement) {
      const style = view.getComputedStyle(box);
      const frame = box.getBoundingClientRect();
      const out = Math.max(words.right - frame.right, frame.left - words.left, words.bottom - frame.bottom);
      if (style.display === "inline" || out < 2) continue;
      if (style.overflowX === "hidden" || style.overflowY === "hidden") say(`cut ${text.slice(0, 20)}`);
      else if (style.borderRightWidth !== "0px") say(`over a frame ${text.slice(0, 20)}`);
    }
  }
  frame.height = Math.min(page.documentElement.scrollHeight, 3000); // for the screenshot
}

addEventListener("load", () => {
  document.querySelectorAll("iframe").forEach(check);
  document.getElementById("findings").textContent = JSON.stringify(found);
});
