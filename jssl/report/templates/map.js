(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const map = document.getElementById("points");
  const sprite = document.getElementById("sprite").src;
  const svg = map.querySelector("svg");
  const ring = map.querySelector(".ring");
  const tip = map.querySelector(".tip");
  const thumb = tip.querySelector(".thumb");
  const label = tip.querySelector("span");
  const buttons = [...document.querySelectorAll(".legend button")];
  const groups = [...svg.querySelectorAll("g")];
  const present = [...new Set(data.points.map((point) => point[2]))].sort(
    (a, b) => a - b,
  );
  const side = thumb.clientWidth || 64;
  let only = null; // The class that is shown alone.
  let current = null; // The number of the point that is shown.

  thumb.style.backgroundImage = `url(${sprite})`;
  thumb.style.backgroundSize = `${data.columns * side}px auto`;
  if (data.cell <= 48) thumb.style.imageRendering = "pixelated";

  const shown = (i) => only === null || data.points[i][2] === present[only];

  function nearest(x, y, limit, allowed) {
    let best = null;
    data.points.forEach(([px, py], i) => {
      const distance = Math.hypot(px - x, py - y);
      if (distance < limit && shown(i) && (!allowed || allowed(px, py, i))) {
        limit = distance;
        best = i;
      }
    });
    return best;
  }

  function show(i) {
    current = i;
    tip.hidden = i === null;
    if (i === null) {
      ring.setAttribute("cx", -99);
      return;
    }
    const [x, y, name, index] = data.points[i];
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    const column = i % data.columns;
    const row = Math.floor(i / data.columns);
    thumb.style.backgroundPosition = `${-column * side}px ${-row * side}px`;
    const of = data.names[name];
    label.textContent = `test image ${index}${of ? `: ${of}` : ""}`;
    const scale = svg.clientWidth / data.side;
    const left = x * scale - tip.offsetWidth / 2;
    const right = map.clientWidth - tip.offsetWidth;
    const above = y * scale - tip.offsetHeight - 16;
    tip.style.left = `${Math.max(0, Math.min(left, right))}px`;
    tip.style.top = `${above >= 0 ? above : y * scale + 16}px`;
  }

  function point(event) {
    const box = svg.getBoundingClientRect();
    const scale = data.side / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    show(nearest(x, y, 30 * scale));
  }

  map.addEventListener("pointermove", point);
  map.addEventListener("pointerdown", point);
  map.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") show(null);
  });
  map.addEventListener("blur", () => show(null));
  map.addEventListener("keydown", (event) => {
    const way = {
      ArrowRight: [1, 0],
      ArrowLeft: [-1, 0],
      ArrowDown: [0, 1],
      ArrowUp: [0, -1],
    }[event.key];
    if (event.key === "Escape") show(null);
    if (!way) return;
    event.preventDefault();
    if (current === null) {
      show(nearest(data.side / 2, data.side / 2, Infinity));
      return;
    }
    const [x, y] = data.points[current];
    const next = nearest(x, y, Infinity, (px, py, i) => {
      const along = (px - x) * way[0] + (py - y) * way[1];
      const across = Math.abs((px - x) * way[1]) + Math.abs((py - y) * way[0]);
      return i !== current && along > 0 && along >= across;
    });
    if (next !== null) show(next);
  });
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => {
      only = only === i ? null : i;
      buttons.forEach((other, j) => {
        other.setAttribute("aria-pressed", String(j === only));
      });
      groups.forEach((group, j) => {
        group.classList.toggle("dim", only !== null && j !== only);
      });
      show(null);
    });
  });
})();
