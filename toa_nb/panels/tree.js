// A search tree that is walked by mouse and keyboard. It sets attributes and text, and no HTML.
const make = (parent, tag, values) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(values)) if (value !== null) e.setAttribute(name, value)
  parent.append(e)
  return e
}
const star = (x, y, r) => Array.from({length: 10}, (_, i) => {
  const a = Math.PI * i / 5, d = i % 2 ? r * .45 : r
  return `${x + d * Math.sin(a)},${y - d * Math.cos(a)}`
}).join(' ')
const shapes = {
  prompt: (g, n, r) => make(g, 'rect', {x: n.x - r, y: n.y - r, width: 2 * r, height: 2 * r, class: 'prompt'}),
  best: (g, n, r) => make(g, 'polygon', {points: star(n.x, n.y, 2.4 * r), fill: n.colour, class: 'best'}),
  scored: (g, n, r) => make(g, 'circle', {cx: n.x, cy: n.y, r, stroke: n.colour, fill: n.colour, 'fill-opacity': .08 + .92 * n.share}),
  unscored: (g, n, r) => make(g, 'circle', {cx: n.x, cy: n.y, r, stroke: n.colour, 'stroke-dasharray': '2 2', 'fill-opacity': 0}),
  failed: (g, n, r) => make(g, 'path', {d: `M${n.x - r},${n.y - r}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`, stroke: n.colour, fill: 'none'}),
}
const keys = {ArrowUp: 'up', ArrowDown: 'down', ArrowLeft: 'left', ArrowRight: 'right', Home: 'first', End: 'last'}
function render({model, el}) {
  let dots, lines, ring, now
  const draw = () => {
    const [w, h] = model.get('size'), r = model.get('radius'), nodes = model.get('nodes')
    el.replaceChildren()
    const svg = make(el, 'svg', {viewBox: `0 0 ${w} ${h}`, role: 'tree', 'aria-label': model.get('title'), class: 'toa-tree'})
    const at = new Map(nodes.map(n => [n.id, n])), under = make(svg, 'g', {'aria-hidden': true})
    ring = make(svg, 'circle', {r: 2 * r + 2, class: 'ring'})
    dots = new Map(); lines = new Map()
    for (const n of nodes) {
      lines.set(n.id, [n.up, ...n.also].filter(p => at.has(p)).map((p, i) =>
        make(under, 'line', {x1: at.get(p).x, y1: at.get(p).y, x2: n.x, y2: n.y, class: i ? 'also' : n.way ? 'way' : null})))
      const g = make(svg, 'g', {role: 'treeitem', tabindex: -1, 'data-id': n.id, 'aria-level': n.level, 'aria-label': n.says})
      make(g, 'title', {}).textContent = n.says
      make(g, 'circle', {cx: n.x, cy: n.y, r: r + 3, class: 'touch'})
      shapes[n.state](g, n, r)
      g.onclick = () => pick(n)
      g.onkeydown = e => { if (keys[e.key]) { e.preventDefault(); pick(at.get(n[keys[e.key]])) } }
      dots.set(n.id, {g, n})
    }
    mark(); advance()
  }
  const pick = n => {
    if (!n || dots.get(n.id).g.style.display) return
    model.set('selected', n.id); model.save_changes()
    dots.get(n.id).g.focus({preventScroll: true})
  }
  const mark = () => {
    if (now) { now.g.setAttribute('tabindex', -1); now.g.setAttribute('aria-selected', false) }
    now = dots.get(model.get('selected'))
    ring.style.display = now ? '' : 'none'
    if (!now) return
    now.g.setAttribute('tabindex', 0); now.g.setAttribute('aria-selected', true)
    ring.setAttribute('cx', now.n.x); ring.setAttribute('cy', now.n.y)
  }
  const advance = () => {
    const step = model.get('step')
    for (const [id, {g, n}] of dots) {
      const hide = n.order >= step ? 'none' : ''
      if (g.style.display !== hide) [g, ...lines.get(id)].forEach(e => e.style.display = hide)
      g.classList.toggle('latest', n.order === step - 1 && step < dots.size - 1)
    }
  }
  draw()
  model.on('change:nodes', draw); model.on('change:selected', mark); model.on('change:step', advance)
}
export default {render}
