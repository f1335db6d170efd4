// A list of any length whose rows are chosen by mouse and keyboard. Only the rows in view are in the page: Python sends
// those from `first` on, and is asked for others through `want`. Cells are text nodes; nothing is read as HTML.
function render({model, el}) {
  let height = 26, timer, typed = false
  const cell = (row, text, numeric) => {
    const td = row.insertCell()
    td.textContent = td.title = text
    if (numeric) td.className = 'num'
    return td
  }
  const pick = (i, more) => {
    if (i < 0 || i >= model.get('total')) return
    const old = model.get('chosen'), chosen = !more || !model.get('multiple') ? [i] : old.includes(i) ? old.filter(j => j !== i) : [...old, i]
    model.set('chosen', chosen); model.save_changes()
    reveal(i)
  }
  const reveal = i => {
    const head = el.querySelector('thead')?.offsetHeight || 0, top = i * height
    if (top < el.scrollTop) el.scrollTop = top
    if (top + height > el.scrollTop + el.clientHeight - head) el.scrollTop = top + height + head - el.clientHeight
    ask()
  }
  const ask = () => {
    const first = model.get('first'), rows = model.get('rows').length, total = model.get('total')
    const from = Math.floor(el.scrollTop / height), to = Math.min(total, from + Math.ceil(el.clientHeight / height))
    if (from >= first && to <= first + rows) return
    clearTimeout(timer)
    timer = setTimeout(() => { model.set('want', Math.max(0, from - Math.floor((model.get('window') - (to - from)) / 2))); model.save_changes() }, 60)
  }
  const space = (body, rows) => {
    const tr = body.insertRow()
    tr.ariaHidden = true; tr.className = 'space'
    tr.insertCell().colSpan = model.get('heads').length + model.get('multiple')
    tr.style.height = `${rows * height}px`
    return tr
  }
  const head = table => {
    const row = table.createTHead().insertRow(), sort = model.get('sort')
    if (model.get('multiple')) row.appendChild(document.createElement('th')).innerHTML = '<span class="toa-hidden">chosen</span>'
    model.get('heads').forEach(([label, ...sorts], i) => {
      const th = row.appendChild(document.createElement('th')), by = sorts[0] === sort ? sorts[sorts.length - 1] : sorts[0]
      th.scope = 'col'
      if (model.get('numeric').includes(i)) th.className = 'num'
      if (!by) { th.textContent = label; return }
      const button = th.appendChild(document.createElement('button'))
      button.type = 'button'; button.textContent = label + (sorts.includes(sort) ? ' \u25be' : '')
      th.ariaSort = sorts[0] === sort ? 'descending' : sorts.includes(sort) ? 'ascending' : 'none'
      button.onclick = () => { model.set('sort', by); model.save_changes() }
    })
  }
  const line = (body, values, i) => {
    const tr = body.insertRow()
    tr.dataset.row = i; tr.tabIndex = -1; tr.ariaRowIndex = i + 2
    if (model.get('multiple')) {
      const box = tr.insertCell().appendChild(document.createElement('input'))
      box.type = 'checkbox'; box.tabIndex = -1; box.ariaLabel = `choose row ${i + 1} too`
      box.onclick = e => { e.stopPropagation(); pick(i, true) }
    }
    const dot = model.get('dots')[i - model.get('first')]
    values.forEach((value, j) => {
      const td = cell(tr, value, model.get('numeric').includes(j))
      if (!dot || j !== model.get('dotted')) return
      const mark = document.createElement('i')
      mark.style.background = dot; mark.className = 'dot'; td.prepend(mark)
    })
    tr.onclick = e => pick(i, e.ctrlKey || e.metaKey || e.shiftKey)
    tr.onkeydown = e => {
      const rows = Math.max(1, Math.floor(el.clientHeight / height) - 2), total = model.get('total')
      const to = {ArrowDown: i + 1, ArrowUp: i - 1, PageDown: Math.min(total - 1, i + rows), PageUp: Math.max(0, i - rows), Home: 0, End: total - 1}[e.key]
      if (to !== undefined) { e.preventDefault(); typed = true; pick(to, false) }
      if (e.key === ' ' || e.key === 'Enter') { e.preventDefault(); typed = true; pick(i, e.key === ' ') }
    }
  }
  const draw = () => {
    const table = document.createElement('table'), rows = model.get('rows'), first = model.get('first'), total = model.get('total')
    table.setAttribute('role', 'grid'); table.ariaMultiSelectable = model.get('multiple'); table.ariaRowCount = total + 1; table.ariaLabel = model.get('label')
    head(table)
    const body = table.createTBody(), top = el.scrollTop
    const before = space(body, first)
    rows.forEach((row, i) => line(body, row, first + i))
    const after = space(body, Math.max(0, total - first - rows.length))
    el.replaceChildren(table)
    const real = body.querySelector('[data-row]')?.offsetHeight
    if (real && real !== height) { height = real; before.style.height = `${first * height}px`; after.style.height = `${Math.max(0, total - first - rows.length) * height}px` }
    el.scrollTop = top
    mark()
  }
  const mark = () => {
    const chosen = model.get('chosen'), last = chosen[chosen.length - 1]
    el.querySelectorAll('[data-row]').forEach(tr => {
      const on = chosen.includes(+tr.dataset.row)
      tr.ariaSelected = on; tr.classList.toggle('chosen', on); if (model.get('multiple')) tr.querySelector('input').checked = on
      tr.tabIndex = +tr.dataset.row === (last ?? model.get('first')) ? 0 : -1
    })
    const now = el.querySelector(`[data-row="${last}"]`)
    if (typed && now) { typed = false; now.focus({preventScroll: true}) }
  }
  const jump = () => { if (model.get('at') >= 0) { el.scrollTop = model.get('at') * height; ask() } }
  el.onscroll = ask
  draw(); model.on('change:rows', draw); model.on('change:sort', draw); model.on('change:chosen', mark); model.on('change:at', jump)
}
export default {render}
