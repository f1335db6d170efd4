// Curves with their intervals: values under the mouse, labels at the ends, one line brought forward at a time.
const ns = 'http://www.w3.org/2000/svg'
const make = (parent, tag, values, text) => {
  const e = document.createElementNS(ns, tag)
  for (const [name, value] of Object.entries(values)) if (value !== null && value !== undefined) e.setAttribute(name, value)
  if (text !== undefined) e.textContent = text
  parent.append(e)
  return e
}
const ticks = (low, high, n) => {
  const span = high - low || 1, raw = span / n, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find(s => s * power >= raw) * power
  const out = []
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : +v.toPrecision(12))
  return out
}
const powers = (low, high) => {
  const out = [], steps = high / low > 300 ? [1] : high / low > 30 ? [1, 3] : [1, 2, 5]
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) for (const s of steps) { const v = s * 10 ** p; if (v >= low * .999 && v <= high * 1.001) out.push(v) }
  return out
}
const shown = v => v === 0 ? '0' : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(2).replace(/\.?0+e/, 'e').replace('e+', 'e') : String(+v.toPrecision(4))
const marks = {
  o: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0`, s: (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  '^': (x, y, r) => `M${x},${y - 1.3 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}z`, v: (x, y, r) => `M${x},${y + 1.3 * r}l${1.2 * r},${-2.2 * r}h${-2.4 * r}z`,
  D: (x, y, r) => `M${x},${y - 1.4 * r}l${1.2 * r},${1.4 * r}l${-1.2 * r},${1.4 * r}l${-1.2 * r},${-1.4 * r}z`,
}
const lines_of = (text, most) => text.split(' ').reduce((lines, word) => {
  const last = lines[lines.length - 1]
  return last && last.length + word.length < most ? [...lines.slice(0, -1), `${last} ${word}`] : [...lines, word]
}, [])
const ten = n => ` × 10${[...String(n)].map(d => '⁰¹²³⁴⁵⁶⁷⁸⁹'[d]).join('')}`
function render({model, el}) {
  const M = {left: 70, right: 150, top: 26, bottom: 48}
  let forward = '', W = 720, H = 400
  const wide = () => Math.min(720, Math.max(360, el.clientWidth || 720)) // letters keep their size in a narrow panel
  const draw = () => {
    const all = model.get('series'), behind = model.get('behind'), log = model.get('log') && all.every(s => s.x[0] > 0)
    el.replaceChildren()
    W = wide(); H = Math.round(220 + W / 4)
    M.right = Math.min(154, 38 + 7.3 * Math.max(6, ...all.map(s => s.label.length)))
    const title = lines_of(model.get('yname'), (W - 8) / 6.6)
    M.top = 11 + 15 * title.length
    const svg = make(el, 'svg', {viewBox: `0 0 ${W} ${H}`, class: 'toa-curve', role: 'group', 'aria-label': model.get('says')})
    if (!all.length) { make(svg, 'text', {x: W / 2, y: H / 2, 'text-anchor': 'middle'}, 'no common range of compute yet'); return }
    const here = model.get('now') || [], xs = [...all, ...behind].flatMap(s => s.x).concat(here.slice(0, 1)), given = (s, k) => (s[k] || []).filter(v => v !== null)
    const values = [...all.flatMap(s => s.name === forward || (model.get('bands') && !forward && all.length <= 3) ? [...s.mean, ...given(s, 'low'), ...given(s, 'high')] : [...s.mean, ...given(s, 'low').slice(-1), ...given(s, 'high').slice(-1)]), ...behind.flatMap(s => s.mean), ...here.slice(1)]
    const x0 = log ? Math.min(...xs) : 0, x1 = Math.max(...xs), pad = (Math.max(...values) - Math.min(...values) || 1) * .05
    const y0 = Math.min(...values) - pad, y1 = Math.max(...values) + pad
    const px = v => M.left + (W - M.left - M.right) * (log ? Math.log(v / x0) / Math.log(x1 / x0 || 2) : (v - x0) / (x1 - x0 || 1))
    const py = v => H - M.bottom - (H - M.top - M.bottom) * (v - y0) / (y1 - y0)
    const axes = make(svg, 'g', {class: 'axes'})
    const big = x1 >= 1e5 ? Math.floor(Math.log10(x1)) : 0, scale = 10 ** (model.get('unit') === 'FLOPs' ? big : big - big % 3)
    for (const v of log ? powers(x0, x1) : ticks(x0, x1, W < 560 ? 4 : 6)) {
      make(axes, 'line', {x1: px(v), x2: px(v), y1: H - M.bottom, y2: H - M.bottom + 4})
      make(axes, 'text', {x: px(v), y: H - M.bottom + 17, 'text-anchor': 'middle'}, shown(v / scale))
    }
    for (const v of ticks(y0, y1, 6)) {
      make(axes, 'line', {x1: M.left, x2: W - M.right, y1: py(v), y2: py(v), class: Math.abs(v) < 1e-12 && model.get('zero') ? 'zero' : 'grid'})
      make(axes, 'text', {x: M.left - 7, y: py(v) + 4, 'text-anchor': 'end'}, shown(v))
    }
    make(axes, 'line', {x1: M.left, x2: W - M.right, y1: H - M.bottom, y2: H - M.bottom})
    const unit = [scale > 1 ? ten(Math.round(Math.log10(scale))).slice(3) : '', model.get('unit')].filter(Boolean).join(' ')
    make(axes, 'text', {x: (M.left + W - M.right) / 2, y: H - 10, 'text-anchor': 'middle', class: 'name'}, model.get('xname') + (unit ? ` (${unit})` : ''))
    title.forEach((text, i) => make(axes, 'text', {x: 4, y: 14 + 15 * i, class: 'name'}, text))
    const line = s => s.x.map((v, i) => `${i ? (model.get('steps') ? `H${px(v).toFixed(1)}V` : `L${px(v).toFixed(1)},`) : `M${px(v).toFixed(1)},`}${py(s.mean[i]).toFixed(1)}`).join('')
    for (const s of behind) make(svg, 'path', {d: line(s), class: 'behind'})
    const order = [...all].sort((a, b) => (a.name === forward) - (b.name === forward)), ends = []
    for (const s of order) {
      const faded = forward && s.name !== forward, last = s.x.length - 1, g = make(svg, 'g', {class: faded ? 'series faded' : 'series', 'data-name': s.name})
      const banded = s.low[last] !== null && s.low[last] !== undefined
      if (banded && (s.name === forward || (model.get('bands') && !forward && all.length <= 3))) {
        const up = s.x.map((v, i) => `${px(v).toFixed(1)},${py(s.high[i]).toFixed(1)}`), down = s.x.map((v, i) => `${px(v).toFixed(1)},${py(s.low[i]).toFixed(1)}`).reverse()
        make(g, 'polygon', {points: [...up, ...down].join(' '), fill: s.colour, class: 'band'})
      }
      make(g, 'path', {d: line(s), stroke: s.colour, class: 'line'})
      const at = px(s.x[last]) + 5 + Math.min(4, 15 / all.length) * all.indexOf(s)
      if (banded && model.get('bands')) make(g, 'path', {d: `M${at - 2.5},${py(s.low[last])}h5m-2.5,0V${py(s.high[last])}m-2.5,0h5`, stroke: s.colour, class: 'whisker'})
      make(g, 'path', {d: (marks[s.marker] || marks.o)(px(s.x[last]), py(s.mean[last]), 4), fill: s.colour})
      ends.push({s, y: py(s.mean[last]), g})
    }
    ends.sort((a, b) => a.y - b.y)
    ends.forEach((e, i) => { if (i) e.y = Math.max(e.y, ends[i - 1].y + 15) })
    const over = ends.length ? ends[ends.length - 1].y - (H - M.bottom) : 0
    for (const e of ends) {
      const label = make(svg, 'text', {x: W - M.right + 24, y: e.y + 4 - Math.max(0, over), style: `fill:${e.s.colour}`, class: e.s.name === forward ? 'end chosen' : 'end', role: 'button', tabindex: 0, 'aria-pressed': e.s.name === forward}, e.s.label)
      make(label, 'title', {}, 'bring forward, or back')
      label.onclick = () => { forward = forward === e.s.name ? '' : e.s.name; model.set('forward', forward); model.save_changes(); draw() }
      label.onkeydown = k => { if (k.key === 'Enter' || k.key === ' ') { k.preventDefault(); label.onclick(); el.querySelector(`.end[aria-pressed="true"]`)?.focus() } }
    }
    if (here.length && all.length === 1) { // The curve ends where the cheapest prompt does; the run is further
      const s = all[0], last = s.x.length - 1
      make(svg, 'path', {d: `M${px(s.x[last])},${py(s.mean[last])}L${px(here[0])},${py(here[1])}`, stroke: s.colour, class: 'onward'})
    }
    if (here.length) star(svg, px(here[0]), py(here[1]), `now ${shown(here[1])}`)
    hover(svg, order, px, py, log, x0, x1, scale)
  }
  const star = (svg, x, y, text) => {
    const points = Array.from({length: 10}, (_, i) => `${(x + (i % 2 ? 3 : 7) * Math.sin(Math.PI * i / 5)).toFixed(1)},${(y - (i % 2 ? 3 : 7) * Math.cos(Math.PI * i / 5)).toFixed(1)}`)
    make(svg, 'polygon', {points: points.join(' '), fill: 'currentColor', class: 'now'})
    make(svg, 'text', {x: x - 4, y: y + 20, 'text-anchor': 'end', class: 'here'}, text)
  }
  const hover = (svg, all, px, py, log, x0, x1, scale) => {
    const cross = make(svg, 'line', {y1: M.top, y2: H - M.bottom, class: 'cross', visibility: 'hidden'}), tip = document.createElement('div')
    tip.className = 'toa-tip'; tip.hidden = true; el.append(tip)
    svg.onpointermove = e => {
      const box = svg.getBoundingClientRect(), x = (e.clientX - box.left) * W / box.width, share = (x - M.left) / (W - M.left - M.right)
      if (share < 0 || share > 1) { tip.hidden = true; cross.setAttribute('visibility', 'hidden'); return }
      const v = log ? x0 * (x1 / x0) ** share : x0 + share * (x1 - x0)
      const rows = all.filter(s => v >= s.x[0]).map(s => {
        let i = s.x.findIndex(u => u > v); i = i < 0 ? s.x.length - 1 : Math.max(0, i - 1)
        return [s, s.mean[i], s.low[i], s.high[i]]
      }).sort((a, b) => b[1] - a[1])
      tip.replaceChildren()
      const head = tip.appendChild(document.createElement('div')); head.textContent = `${shown(v / scale)}${scale > 1 ? ten(Math.round(Math.log10(scale))) : ''} ${model.get('unit')}`
      for (const [s, mean, low, high] of rows) {
        const line = tip.appendChild(document.createElement('div')), dot = line.appendChild(document.createElement('i'))
        dot.style.background = s.colour
        line.append(`${s.label}: ${shown(mean)}${low === null || low === undefined ? '' : ` [${shown(low)}, ${shown(high)}]`}`)
      }
      tip.hidden = false
      const left = (e.clientX - box.left) + 14
      tip.style.left = `${left + tip.offsetWidth > box.width ? left - tip.offsetWidth - 28 : left}px`; tip.style.top = `${Math.max(0, e.clientY - box.top - 20)}px`
      cross.setAttribute('x1', x); cross.setAttribute('x2', x); cross.setAttribute('visibility', 'visible')
    }
    svg.onpointerleave = () => { tip.hidden = true; cross.setAttribute('visibility', 'hidden') }
  }
  el.classList.add('toa-curve-box')
  draw()
  new ResizeObserver(() => { if (el.clientWidth && wide() !== W) draw() }).observe(el)
  for (const name of ['series', 'behind', 'log', 'bands', 'steps', 'xname', 'yname', 'zero', 'now']) model.on(`change:${name}`, draw)
  model.on('change:forward', () => { if (forward !== model.get('forward')) { forward = model.get('forward'); draw() } })
}
export default {render}
