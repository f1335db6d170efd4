// A table of text whose rows are chosen by mouse and keyboard. Cells are text nodes; nothing is read as HTML.
function render({model, el}) {
  const pick = (i, more) => {
    const old = model.get('chosen'), chosen = !more ? [i] : old.includes(i) ? old.filter(j => j !== i) : [...old, i]
    model.set('chosen', chosen); model.save_changes()
  }
  const draw = () => {
    const table = document.createElement('table'), rows = model.get('rows'), numeric = model.get('numeric')
    table.setAttribute('role', 'grid'); table.setAttribute('aria-multiselectable', true)
    const head = table.createTHead().insertRow()
    head.append(document.createElement('th'))
    model.get('heads').forEach(([label, ...sorts], i) => {
      const th = head.appendChild(document.createElement('th')), by = sorts[0] === model.get('sort') ? sorts[sorts.length - 1] : sorts[0]
      if (numeric.includes(i)) th.className = 'num'
      th.textContent = label + (sorts.includes(model.get('sort')) ? ' \u25be' : '')
      if (by) { th.classList.add('sorts'); th.title = 'sort'; th.onclick = () => { model.set('sort', by); model.save_changes() } }
    })
    const body = table.createTBody()
    rows.forEach((row, i) => {
      const tr = body.insertRow(), box = tr.insertCell().appendChild(document.createElement('input'))
      tr.tabIndex = i ? -1 : 0; tr.dataset.row = i
      box.type = 'checkbox'; box.tabIndex = -1; box.ariaLabel = `choose ${row[1]} too`
      box.onclick = e => { e.stopPropagation(); pick(i, true) }
      row.forEach((value, j) => { const td = tr.insertCell(); td.textContent = value; td.title = value; if (numeric.includes(j)) td.className = 'num' })
      tr.onclick = e => pick(i, e.ctrlKey || e.metaKey || e.shiftKey)
      tr.onkeydown = e => {
        const to = {ArrowDown: tr.nextSibling, ArrowUp: tr.previousSibling}[e.key]
        if (to) { e.preventDefault(); to.focus(); pick(+to.dataset.row, false) }
        if (e.key === ' ' || e.key === 'Enter') { e.preventDefault(); pick(i, e.key === ' ') }
      }
    })
    el.replaceChildren(table); mark()
  }
  const mark = () => el.querySelectorAll('tbody tr').forEach((tr, i) => {
    const on = model.get('chosen').includes(i)
    tr.setAttribute('aria-selected', on); tr.classList.toggle('chosen', on); tr.querySelector('input').checked = on
  })
  draw(); model.on('change:rows', draw); model.on('change:sort', draw); model.on('change:chosen', mark)
}
export default {render}
