// A search tree that is walked by mouse and keyboard, moved, zoomed, folded and filtered. It sets attributes and text, and no HTML.
const make = (parent, tag, values) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(values)) if (value !== null) e.setAttribute(name, value)
  parent.append(e)
  return e
}
const corners = (x, y, r, n, turn, inner = 1) => Array.from({length: inner === 1 ? n : 2 * n}, (_, i) => {
  const a = turn + 2 * Math.PI * i / (inner === 1 ? n : 2 * n), d = inner !== 1 && i % 2 ? r * inner : r
  return `${(x + d * Math.sin(a)).toFixed(1)},${(y - d * Math.cos(a)).toFixed(1)}`
}).join(' ')
const shape = (g, n, r, by) => {
  const colour = by === 'reward' ? n.tone : n.colour, share = by === 'reward' ? 1 : .08 + .92 * n.share
  if (n.state === 'prompt') return make(g, 'rect', {x: n.x - r, y: n.y - r, width: 2 * r, height: 2 * r, class: 'prompt'})
  if (n.state === 'failed') return make(g, 'path', {d: `M${n.x - r},${n.y - r}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`, stroke: n.colour, fill: 'none'})
  if (n.state === 'best') return make(g, 'polygon', {points: corners(n.x, n.y, 2.4 * r, 5, 0, .45), fill: colour, class: 'best'})
  const look = n.state === 'scored' ? {stroke: by === 'reward' ? 'currentColor' : colour, 'stroke-width': by === 'reward' ? .6 : null, fill: colour, 'fill-opacity': share}
    : {stroke: n.colour, 'stroke-dasharray': '2 2', 'fill-opacity': 0}
  const [sides, turn] = n.form // One form for each move, so that a move is seen without colour
  return sides ? make(g, 'polygon', {points: corners(n.x, n.y, 1.25 * r, sides, turn), ...look}) : make(g, 'circle', {cx: n.x, cy: n.y, r, ...look})
}
const keys = {ArrowUp: 'up', ArrowDown: 'down', ArrowLeft: 'left', ArrowRight: 'right', Home: 'first', End: 'last'}
function render({model, el}) {
  let dots, lines, ring, now, svg, view, at, below, folded = new Set(), dragged = false, playing = null
  const bar = el.appendChild(document.createElement('div')), stage = el.appendChild(document.createElement('div'))
  const caption = el.appendChild(document.createElement('div'))
  bar.className = 'toa-tree-bar'; stage.className = 'toa-tree-stage'; caption.className = 'toa-dim toa-tree-now'
  const tool = (label, title, act) => {
    const b = bar.appendChild(document.createElement('button'))
    b.type = 'button'; b.textContent = label; b.title = title; b.ariaLabel = title; b.onclick = act
    return b
  }
  const show = () => svg.setAttribute('viewBox', view.map(v => v.toFixed(1)).join(' '))
  const fit = () => { view = [0, 0, ...model.get('size')]; show() }
  const zoom = (factor, x = view[0] + view[2] / 2, y = view[1] + view[3] / 2) => {
    const limit = model.get('size')[0], width = Math.min(2 * limit, Math.max(limit / 40, view[2] * factor)), f = width / view[2]
    view = [x - (x - view[0]) * f, y - (y - view[1]) * f, width, view[3] * f]; show()
  }
  tool('+', 'zoom in', () => zoom(.7)); tool('\u2212', 'zoom out', () => zoom(1 / .7)); tool('fit', 'fit the whole tree', fit)
  tool('unfold', 'unfold all branches', () => { folded.clear(); advance() })
  const play = tool('\u25b6', 'play the search back', () => playing ? halt() : start()), slide = bar.appendChild(document.createElement('input'))
  slide.type = 'range'; slide.min = 0; slide.ariaLabel = 'samples shown'
  slide.oninput = () => { halt(); to_step(+slide.value) }
  const to_step = step => { model.set('step', step); model.save_changes() }
  const halt = () => { clearInterval(playing); playing = null; play.textContent = '\u25b6'; play.ariaLabel = play.title = 'play the search back' }
  const start = () => {
    const all = model.get('nodes').length - 1
    if (model.get('step') >= all) to_step(0)
    play.textContent = '\u23f8'; play.ariaLabel = play.title = 'stop playing'
    playing = setInterval(() => { const next = model.get('step') + 1; if (next > all || !el.isConnected) return halt(); to_step(next) }, Math.max(40, Math.min(250, 15000 / all)))
  }
  const place = e => {
    const box = svg.getBoundingClientRect(), scale = Math.max(view[2] / box.width, view[3] / box.height)
    return [view[0] + view[2] / 2 + (e.clientX - box.left - box.width / 2) * scale, view[1] + view[3] / 2 + (e.clientY - box.top - box.height / 2) * scale, scale]
  }
  const move = () => {
    svg.onwheel = e => { if (!e.ctrlKey && !e.metaKey) return; e.preventDefault(); const [x, y] = place(e); zoom(e.deltaY > 0 ? 1.15 : 1 / 1.15, x, y) }
    svg.onpointerdown = e => {
      const start = [...view], from = [e.clientX, e.clientY], scale = place(e)[2]
      dragged = false
      const drag = m => {
        const dx = m.clientX - from[0], dy = m.clientY - from[1]
        if (Math.hypot(dx, dy) > 4) dragged = true
        if (dragged) { view = [start[0] - dx * scale, start[1] - dy * scale, start[2], start[3]]; show() }
      }
      window.addEventListener('pointermove', drag)
      window.addEventListener('pointerup', () => window.removeEventListener('pointermove', drag), {once: true})
    }
  }
  const fold = n => {
    if (!below.has(n.id)) return
    folded.has(n.id) ? folded.delete(n.id) : folded.add(n.id)
    advance()
  }
  const draw = () => {
    const [w, h] = model.get('size'), r = model.get('radius'), nodes = model.get('nodes'), by = model.get('by')
    svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
    for (const [k, v] of Object.entries({viewBox: `0 0 ${w} ${h}`, role: 'tree', 'aria-label': model.get('title'), class: nodes.length > 200 ? 'toa-tree many' : 'toa-tree'})) svg.setAttribute(k, v)
    stage.replaceChildren(svg)
    at = new Map(nodes.map(n => [n.id, n])); below = new Map(); folded = new Set([...folded].filter(id => at.has(id)))
    for (const n of nodes) if (n.up !== null && n.up !== undefined) below.set(n.up, [...(below.get(n.up) || []), n.id])
    for (const [cx, cy, rx, ry] of model.get('rings')) make(svg, 'ellipse', {cx, cy, rx, ry, class: 'depth', 'aria-hidden': true})
    const under = make(svg, 'g', {'aria-hidden': true})
    ring = make(svg, 'circle', {r: 2 * r + 2, class: 'ring', 'aria-hidden': true})
    dots = new Map(); lines = new Map(); now = null
    for (const n of nodes) {
      lines.set(n.id, [n.up, ...n.also].filter(p => at.has(p)).map((p, i) =>
        make(under, 'line', {x1: at.get(p).x, y1: at.get(p).y, x2: n.x, y2: n.y, class: i ? 'also' : n.way ? 'way' : null})))
      const g = make(svg, 'g', {role: 'treeitem', tabindex: -1, 'data-id': n.id, 'aria-level': n.level, 'aria-label': n.says, 'aria-selected': false})
      make(g, 'title', {}).textContent = n.says
      make(g, 'circle', {cx: n.x, cy: n.y, r: r + 3, class: 'touch'})
      shape(g, n, r, by)
      const hidden = make(g, 'text', {x: n.x + 1.5 * r, y: n.y - 1.5 * r, class: 'folded', 'aria-hidden': true})
      g.onclick = () => { if (!dragged) pick(n) }
      g.ondblclick = () => fold(n)
      g.onkeydown = e => {
        if (keys[e.key]) { e.preventDefault(); step_to(n, keys[e.key]) }
        if (e.key === ' ' || e.key === 'Enter') { e.preventDefault(); fold(n) }
      }
      dots.set(n.id, {g, n, hidden})
    }
    view = [0, 0, w, h]
    move(); mark(); advance()
  }
  const step_to = (n, way) => { // Nodes that are not shown are passed over
    let to = at.get(n[way]), seen = new Set()
    while (to && dots.get(to.id).g.style.display && !seen.has(to.id)) { seen.add(to.id); to = way === 'first' || way === 'last' ? null : at.get(to[way]) }
    if (to && !seen.has(to.id)) pick(to)
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
  const wanted = n => {
    const f = model.get('only')
    return n.state === 'prompt' || ((!f.model || f.model === n.model) && (!f.kind || f.kind === n.kind)
      && (!f.depth || n.level - 1 <= f.depth) && (f.low === undefined || f.low === null || (n.value !== null && n.value >= f.low)))
  }
  const advance = () => {
    const step = model.get('step'), inside = new Map()
    slide.max = model.get('nodes').length - 1; slide.value = step
    for (const n of model.get('nodes')) inside.set(n.id, n.up !== null && n.up !== undefined && (folded.has(n.up) || inside.get(n.up)))
    const count = id => (below.get(id) || []).reduce((sum, c) => sum + 1 + count(c), 0)
    let best = null
    for (const [id, {g, n, hidden}] of dots) {
      const hide = n.order >= step || inside.get(id) ? 'none' : ''
      if (g.style.display !== hide) [g, ...lines.get(id)].forEach(e => e.style.display = hide)
      g.classList.toggle('latest', n.order === step - 1 && step < dots.size - 1)
      g.classList.toggle('faded', !wanted(n))
      hidden.textContent = folded.has(id) ? `+${count(id)}` : ''
      if (below.has(id)) g.setAttribute('aria-expanded', !folded.has(id))
      if (n.order < step && n.value !== null && n.value !== undefined && (!best || n.value > best.value)) best = n
    }
    caption.textContent = step > 0 && best ? `after ${step} samples: best ${best.value.toPrecision(3)}, no. ${best.id}` : ''
  }
  draw()
  model.on('change:nodes', draw); model.on('change:by', draw); model.on('change:selected', mark)
  model.on('change:step', advance); model.on('change:only', advance)
}
export default {render}
